// SPDX-License-Identifier: Apache-2.0
// Small models that tests adapt, in the styles users write them in.
#pragma once

#include <torch/torch.h>

namespace peft_test {

/// Linear layers, an embedding and a head behind private members.
struct TextModelImpl : torch::nn::Cloneable<TextModelImpl> {
  TextModelImpl() { reset(); }

  void reset() override {
    embedding_ = register_module("embedding", torch::nn::Embedding(10, 6));
    blocks_ = register_module("blocks", torch::nn::ModuleList());
    for (int i = 0; i < 2; ++i) {
      torch::nn::Sequential block;
      block->push_back("up", torch::nn::Linear(6, 5));
      block->push_back("act", torch::nn::Tanh());
      block->push_back(
          "down",
          torch::nn::Linear(torch::nn::LinearOptions(5, 6).bias(false)));
      blocks_->push_back(block);
    }
    norm_ = register_module(
        "norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({6})));
    head_ = register_module("head", torch::nn::Linear(6, 3));
  }

  torch::Tensor forward(const torch::Tensor& ids) {
    auto x = embedding_(ids);
    for (const auto& block : *blocks_) {
      x = x + block->as<torch::nn::Sequential>()->forward(x);
    }
    return head_(norm_(x));
  }

 private:
  torch::nn::Embedding embedding_{nullptr};
  torch::nn::ModuleList blocks_{nullptr};
  torch::nn::LayerNorm norm_{nullptr};
  torch::nn::Linear head_{nullptr};
};
TORCH_MODULE(TextModel);

inline torch::Tensor text_ids() {
  return torch::tensor({{1, 2, 3}, {9, 0, 1}}, torch::kLong);
}

/// Gives every adapter tensor of `model` new random values, so that adapters
/// do something.
template <class Tensors>
void randomise(const Tensors& tensors, double size = 0.3) {
  const torch::NoGradGuard no_grad;
  for (const auto& tensor : tensors) {
    torch::Tensor t = tensor;
    t.copy_(torch::randn(t.sizes()) * size);
  }
}

}  // namespace peft_test
