// SPDX-License-Identifier: Apache-2.0
// Times of operating adapters, one line each: a name and milliseconds. The
// model is as in operations_with_peft.py: 224 linear layers of 256 x 256,
// rank 8.
#include <string>
#include <vector>

#include <peft/peft.h>
#include <torch/torch.h>

#include "timing.h"

using torch::Tensor;

namespace {

constexpr int layers = 224;
constexpr int width = 256;

peft::LoraConfig lora(int64_t r, const peft::ModuleChoice& targets) {
  peft::LoraConfig config;
  config.r = r;
  config.target_modules = targets;
  config.inference_mode = true;
  return config;
}

void randomise(const peft::Adapters& adapters, const std::string& name) {
  for (Tensor tensor : adapters.parameters(name)) {
    tensor.normal_(0, 0.1);
  }
}

void many_adapters() {
  torch::nn::Sequential model;
  for (int i = 0; i < layers; ++i) {
    model->push_back(torch::nn::Linear(width, width));
  }
  const auto config = lora(8, "all-linear");
  const auto attach = [&](int i) {
    return milliseconds([&] {
      peft::inject_adapter_in_model(
          config, *model, std::to_string(i), {.low_cpu_mem_usage = true});
    });
  };
  for (int i = 1; i <= 1000; ++i) {
    const double time = attach(i);
    if (i == 1 || i == 10 || i == 30 || i == 60 || i == 1000) {
      print("attach_" + std::to_string(i), time);
    }
  }
  auto adapters = peft::adapters_of(*model);
  int turn = 0;
  print("set_adapter", median_time(51, [&] {
          adapters.set_adapter(std::to_string(1 + turn++ % 2));
        }));
  print("disable_scope", median_time(51, [&] {
          const peft::DisableAdapters scope(adapters);
        }));
}

void swapping() {
  torch::nn::Sequential model;
  for (int i = 0; i < layers; ++i) {
    model->push_back(torch::nn::Linear(width, width));
  }
  const auto config = lora(8, "all-linear");
  auto adapters = peft::inject_adapter_in_model(config, *model);
  randomise(adapters, "default");
  peft::StateDict state;
  for (const auto& item : peft::get_peft_model_state_dict(*model)) {
    state.insert(item.key(), item->clone());
  }
  print("hotswap", median_time(11, [&] {
          peft::hotswap_adapter(*model, state, config);
        }));
  print("merge_unmerge", median_time(5, [&] {
          adapters.merge_adapter();
          adapters.unmerge_adapter();
        }));
}

void combining(int64_t size) {
  torch::nn::Sequential model(torch::nn::Linear(size, size));
  for (const std::string name : {"a", "b", "c"}) {
    randomise(
        peft::inject_adapter_in_model(lora(16, {"0"}), *model, name), name);
  }
  auto adapters = peft::adapters_of(*model);
  print("combine_svd_" + std::to_string(size), median_time(5, [&] {
          peft::add_weighted_adapter(
              *model, {"a", "b", "c"}, {0.5, 0.3, 0.2}, "sum");
          adapters.delete_adapter("sum");
        }));
}

// A batch of 16 rows whose adapters are all different, against the base alone.
void mixing(int64_t positions) {
  torch::nn::Sequential model;
  for (int i = 0; i < 4; ++i) {
    model->push_back(torch::nn::Linear(1024, 1024));
  }
  std::vector<std::string> names;
  for (int i = 0; i < 16; ++i) {
    names.push_back("adapter_" + std::to_string(i));
    randomise(
        peft::inject_adapter_in_model(
            lora(8, "all-linear"), *model, names.back()),
        names.back());
  }
  auto adapters = peft::adapters_of(*model);
  const Tensor x = torch::randn({16, positions, 1024});
  const auto time = [&] { return median_time(15, [&] { model->forward(x); }); };
  const std::string suffix = "_" + std::to_string(positions);
  {
    const peft::DisableAdapters scope(adapters);
    print("batch_base" + suffix, time());
  }
  const peft::BatchAdapters scope(adapters, names);
  print("batch_mixed" + suffix, time());
}

}  // namespace

int main() {
  const torch::NoGradGuard no_grad;
  torch::set_num_threads(2);
  many_adapters();
  swapping();
  combining(1024);
  combining(2048);
  mixing(1);
  mixing(64);
}
