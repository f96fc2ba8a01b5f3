// SPDX-License-Identifier: Apache-2.0
// The C++ side of lora_parity.py: runs one case and writes what came out.
//
//   lora_tool load FOLDER   loads the adapter that PEFT saved
//   lora_tool save FOLDER   injects by the config, saves the adapter
//
// FOLDER holds case.json {model, dtype, train, adapters}, base.safetensors,
// input.safetensors {x, direction}, and the adapter folder(s); the results go
// to FOLDER/result.safetensors: y and one "grad.<key>" for each tensor.
#include <fstream>
#include <iostream>

#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "parity/zoo.h"
#include "peft/peft.h"

namespace {

using torch::Tensor;
namespace fs = std::filesystem;

void load_base(peft_parity::Model& model, const fs::path& file) {
  const auto weights = peft::load_safetensors(file);
  const torch::NoGradGuard no_grad;
  for (auto& p : model.named_parameters()) {
    p.value().copy_(weights[p.key()]);
  }
  for (auto& b : model.named_buffers()) {
    b.value().copy_(weights[b.key()]);
  }
}

fs::path adapter_folder(const fs::path& folder, const std::string& name) {
  return name == "default" ? folder / "adapter" : folder / "adapter" / name;
}

void run(const std::string& mode, const fs::path& folder) {
  const auto spec = nlohmann::json::parse(std::ifstream(folder / "case.json"));
  auto model = peft_parity::make(spec["model"]);
  load_base(*model, folder / "base.safetensors");
  if (spec["dtype"] == "bfloat16") {
    model->to(torch::kBFloat16);
  }
  model->train(spec["train"]);
  const std::vector<std::string> names = spec["adapters"];
  torch::manual_seed(7);
  for (const auto& name : names) {
    const auto from = adapter_folder(folder, name);
    if (mode == "load") {
      peft::load_adapter(*model, from, name, {.is_trainable = true});
      continue;
    }
    auto config = peft::load_adapter_config(from);
    config->inference_mode = false;
    auto adapters = peft::inject_adapter_in_model(*config, *model, name);
    const torch::NoGradGuard no_grad;
    for (auto tensor : adapters.parameters(name)) {
      if (tensor.is_floating_point()) {
        tensor.add_(torch::rand_like(tensor), 0.2);
      }
    }
  }
  auto adapters = peft::adapters_of(*model);
  adapters.set_adapter(names);

  const auto input = peft::load_safetensors(folder / "input.safetensors");
  const Tensor y = model->forward(input["x"]);
  (y * input["direction"]).sum().backward();
  peft::StateDict results;
  results.insert("y", y.detach());
  for (const auto& name : names) {
    for (const auto& item : peft::get_peft_model_state_dict(*model, name)) {
      const auto key = name + "|" + item.key();
      results.insert("value." + key, item.value().detach());
      if (item.value().grad().defined()) {
        results.insert("grad." + key, item.value().grad());
      }
    }
  }
  peft::save_safetensors(results, folder / "result.safetensors");
  if (mode == "save") {
    peft::save_pretrained(*model, folder / "saved");
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: lora_tool load|save FOLDER\n";
    return 2;
  }
  try {
    run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
