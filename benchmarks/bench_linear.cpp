// SPDX-License-Identifier: Apache-2.0
// Milliseconds of one linear layer, forward and backward, frozen and adapted.
//
//   bench_linear N D R DROPOUT ROUNDS   prints one line: frozen adapted
#include <cstdio>
#include <cstdlib>

#include <peft/peft.h>
#include <torch/torch.h>

#include "timing.h"

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: bench_linear N D R DROPOUT ROUNDS\n");
    return 2;
  }
  torch::set_num_threads(2);
  const std::int64_t n = std::atoll(argv[1]);
  const std::int64_t d = std::atoll(argv[2]);
  peft::LoraConfig config;
  config.r = std::atoll(argv[3]);
  config.lora_dropout = std::atof(argv[4]);
  config.target_modules = {"layer"};
  const int rounds = std::atoi(argv[5]);

  struct Model : torch::nn::Module {
    explicit Model(std::int64_t size)
        : layer(register_module("layer", torch::nn::Linear(size, size))) {}
    torch::nn::Linear layer;
  };
  Model frozen(d);
  for (const auto& parameter : frozen.parameters()) {
    parameter.set_requires_grad(false);
  }
  Model adapted(d);
  peft::inject_adapter_in_model(config, adapted);
  const auto x = torch::randn({n, d}).requires_grad_();
  std::vector<double> without;
  std::vector<double> with;
  for (int i = -3; i < rounds; ++i) {  // alternating; three to warm up
    const double a = milliseconds([&] { frozen.layer(x).sum().backward(); });
    const double b = milliseconds([&] { adapted.layer(x).sum().backward(); });
    if (i >= 0) {
      without.push_back(a);
      with.push_back(b);
    }
  }
  std::printf("%.4f %.4f\n", median(without), median(with));
  return 0;
}
