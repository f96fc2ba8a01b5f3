// SPDX-License-Identifier: Apache-2.0
// The C++ side of data_start_parity.py: passes over data, injection, training.
//
//   data_start_tool FOLDER
//
// FOLDER holds adapter_config.json, base.safetensors, input.safetensors {x,
// direction, batch_0, ...}; the results go to FOLDER/result.safetensors and,
// saved after training, to FOLDER/saved.
#include <iostream>

#include <torch/torch.h>

#include "parity/zoo.h"
#include "peft/peft.h"

namespace {

using torch::Tensor;
namespace fs = std::filesystem;

struct Input {
  Tensor x, direction;
  std::vector<Tensor> batches;
};

Input read_input(const fs::path& file) {
  const auto tensors = peft::load_safetensors(file);
  Input input{tensors["x"], tensors["direction"], {}};
  for (int i = 0;; ++i) {
    const Tensor* batch = tensors.find("batch_" + std::to_string(i));
    if (!batch) {
      return input;
    }
    input.batches.push_back(*batch);
  }
}

peft::StateDict pass_over(
    const peft::LoraConfig& config,
    peft_parity::Model& model,
    const std::vector<Tensor>& batches) {
  const std::string scheme = config.init_lora_weights.scheme();
  if (scheme == "corda") {
    return peft::preprocess_corda(config, model, [&] {
      for (const auto& ids : batches) {
        model.forward(ids);
      }
    });
  }
  if (scheme == "lora_ga") {
    return peft::preprocess_loraga(config, model, [&] {
      for (const auto& ids : batches) {
        model.forward(ids).square().sum().backward();
      }
    });
  }
  return peft::preprocess_eva(config, model, [&](std::int64_t i) {
    model.forward(batches[static_cast<std::size_t>(i) % batches.size()]);
  });
}

Tensor train(
    peft_parity::Model& model,
    const peft::Adapters& adapters,
    const Input& input) {
  constexpr int steps = 20;
  torch::optim::SGD optimizer(adapters.trainable_parameters(), 0.02);
  Tensor losses = torch::zeros({steps});
  model.train();
  for (int step = 0; step < steps; ++step) {
    const Tensor loss =
        (model.forward(input.x) - input.direction).square().mean();
    losses[step] = loss.item<float>();
    loss.backward();
    optimizer.step();
    optimizer.zero_grad();
  }
  return losses;
}

void run(const fs::path& folder) {
  const auto model = peft_parity::make("text");
  peft_parity::load_base(*model, folder / "base.safetensors");
  const auto loaded = peft::load_adapter_config(folder);
  const auto& config = dynamic_cast<const peft::LoraConfig&>(*loaded);
  const Input input = read_input(folder / "input.safetensors");
  const auto data = pass_over(config, *model, input.batches);
  auto adapters = peft::inject_adapter_in_model(
      config, *model, "default", {.init_data = &data});
  adapters.set_requires_grad("default", true);
  peft::StateDict results;
  for (const auto& item : peft::get_peft_model_state_dict(*model)) {
    results.insert("value." + item.key(), item.value().detach().clone());
  }
  for (const auto& [path, scaling] : adapters.scaling("default")) {
    results.insert("scaling." + path, torch::tensor(scaling));
  }
  model->eval();
  results.insert("y", model->forward(input.x).detach());
  results.insert("losses", train(*model, adapters, input));
  model->eval();
  results.insert("trained", model->forward(input.x).detach());
  peft::save_safetensors(results, folder / "result.safetensors");
  peft::save_pretrained(*model, folder / "saved");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: data_start_tool FOLDER\n";
    return 2;
  }
  try {
    run(argv[1]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
