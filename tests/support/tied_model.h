// SPDX-License-Identifier: Apache-2.0
// A language model in small whose head is tied to its embedding.
#pragma once

#include <torch/torch.h>

namespace peft_test {

struct TiedModelImpl : torch::nn::Module {
  TiedModelImpl() {
    namespace nn = torch::nn;
    embed_tokens = register_module("embed_tokens", nn::Embedding(9, 6));
    body = register_module("body", nn::Linear(6, 6));
    lm_head = register_module(
        "lm_head", nn::Linear(nn::LinearOptions(6, 9).bias(false)));
    lm_head->weight = embed_tokens->weight;
  }

  torch::Tensor forward(const torch::Tensor& ids) {
    return lm_head(torch::tanh(body(embed_tokens(ids))));
  }

  /// What forward gives with `table` in the place of the shared weight.
  torch::Tensor forward_with(
      const torch::Tensor& ids,
      const torch::Tensor& table,
      const torch::Tensor& head) const {
    const auto x = torch::embedding(table, ids);
    return torch::linear(
        torch::tanh(torch::linear(x, body->weight, body->bias)), head);
  }

  torch::nn::Embedding embed_tokens{nullptr};
  torch::nn::Linear body{nullptr};
  torch::nn::Linear lm_head{nullptr};
};
TORCH_MODULE(TiedModel);

}  // namespace peft_test
