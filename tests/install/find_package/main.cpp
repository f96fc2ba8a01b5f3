// SPDX-License-Identifier: Apache-2.0
// A program outside this project: LoRA in a module of its own.
#include <torch/nn/modules/linear.h>

#include <iostream>

#include <peft/peft.h>

struct ModelImpl : torch::nn::Module {
  ModelImpl()
      : linear(register_module("linear", torch::nn::Linear(8, 8))),
        head(register_module("head", torch::nn::Linear(8, 2))) {}

  torch::Tensor forward(const torch::Tensor& input) {
    return head(linear(input).relu());
  }

  torch::nn::Linear linear;
  torch::nn::Linear head;
};
TORCH_MODULE(Model);

int main() {
  Model model;
  const auto input = torch::randn({3, 8});
  const auto before = model->forward(input);

  peft::LoraConfig config;
  config.target_modules = {"linear"};
  auto adapters = peft::inject_adapter_in_model(config, *model);
  const auto after = model->forward(input);

  const bool good = torch::equal(after, before) && after.requires_grad() &&
      adapters.trainable_parameters().size() == 2;
  std::cout << "peft " PEFT_VERSION ": " << (good ? "works" : "fails") << '\n';
  return good ? 0 : 1;
}
