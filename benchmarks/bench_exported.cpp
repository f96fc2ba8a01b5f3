// SPDX-License-Identifier: Apache-2.0
// Times of the programs that exported_with_python.py exports, in milliseconds.
//
//   bench_exported EVAL.pt2 TRAIN.pt2
#include <cstdio>
#include <string>

#include <peft/peft.h>
#include <torch/torch.h>

#include "timing.h"

namespace {

void forward(peft::ExportedProgram& program, int rows, int length, int rounds) {
  const auto ids = torch::randint(1000, 2000, {rows, length}, torch::kLong);
  const auto mask = torch::ones_like(ids);
  const torch::NoGradGuard no_grad;
  print(
      "forward_" + std::to_string(rows) + "x" + std::to_string(length),
      median_time(rounds, [&] { program.forward({ids, mask}); }));
}

void training_step(peft::ExportedProgram& program, int rounds) {
  peft::LoraConfig config;
  config.target_modules = {"query", "value"};
  config.lora_dropout = 0.1;
  const auto adapters = peft::inject_adapter_in_model(config, program);
  program.train();
  torch::optim::AdamW optimizer(adapters.trainable_parameters());
  const auto ids = torch::randint(1000, 2000, {8, 64}, torch::kLong);
  const auto mask = torch::ones_like(ids);
  print("lora_step_8x64", median_time(rounds, [&] {
          optimizer.zero_grad();
          program.forward({ids, mask})[0].pow(2).mean().backward();
          optimizer.step();
        }));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: bench_exported EVAL.pt2 TRAIN.pt2\n");
    return 2;
  }
  torch::set_num_threads(2);
  auto program = peft::ExportedProgram::load(argv[1]);
  forward(program, 32, 64, 7);
  forward(program, 2, 8, 101);
  auto trained = peft::ExportedProgram::load(argv[2]);
  training_step(trained, 7);
}
