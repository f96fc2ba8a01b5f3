// SPDX-License-Identifier: Apache-2.0
// The C++ side of adapter_parity.py: runs one case and writes what came out.
//
//   adapter_tool load FOLDER   loads the adapter that PEFT saved
//   adapter_tool adopt FOLDER  the same by the file's keys and shapes alone
//   adapter_tool save FOLDER   injects by the config, saves the adapter
//   adapter_tool train FOLDER  loads "default" and trains it, then saves it
//
// FOLDER holds case.json {model, dtype, autocast, train, adapters},
// base.safetensors, input.safetensors {x, direction}, and the adapter
// folder(s); the results go to FOLDER/result.safetensors: y and one
// "grad.<key>" for each tensor.
#include <fstream>
#include <iostream>

#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "parity/zoo.h"
#include "peft/peft.h"

namespace {

using torch::Tensor;
namespace fs = std::filesystem;

// Injects by what the tensors tell; only scaling and start come from the
// config.
void adopt(
    peft_parity::Model& model,
    const fs::path& from,
    const std::string& name,
    bool autocast) {
  auto config = peft::load_adapter_config(from);
  config->inference_mode = false;
  config->target_modules = {};
  config->exclude_modules = {};
  if (auto* lora = dynamic_cast<peft::LoraConfig*>(config.get())) {
    lora->r = 99;
    lora->rank_pattern.clear();
    lora->use_dora = false;
    lora->lora_bias = false;
  }
  const auto weights = peft::load_peft_weights(from);
  peft::inject_adapter_in_model(
      *config,
      model,
      name,
      {.state_dict = &weights,
       .low_cpu_mem_usage = true,
       .autocast_adapter_dtype = autocast});
  const auto report = peft::set_peft_model_state_dict(model, weights, name);
  if (!report.missing_keys.empty() || !report.unexpected_keys.empty()) {
    throw std::runtime_error("adopted tensors do not fit");
  }
}

// As in the script: SGD with momentum on the mean square of y - direction.
Tensor train(
    peft_parity::Model& model,
    peft::Adapters& adapters,
    const Tensor& x,
    const Tensor& direction) {
  constexpr int steps = 20;
  model.train();
  torch::optim::SGD optimizer(
      adapters.trainable_parameters(),
      torch::optim::SGDOptions(0.05).momentum(0.9));
  const bool is_adalora = adapters.config().peft_type() == "ADALORA";
  Tensor losses = torch::zeros({steps});
  for (int step = 0; step < steps; ++step) {
    Tensor loss = (model.forward(x) - direction).square().mean();
    losses[step] = loss.item<float>();
    if (is_adalora) {
      loss = loss + adapters.orthogonal_regularization();
    }
    loss.backward();
    optimizer.step();
    if (is_adalora) {
      adapters.update_and_allocate(step);
    }
    optimizer.zero_grad();
  }
  return losses;
}

void run(const std::string& mode, const fs::path& folder) {
  const auto spec = nlohmann::json::parse(std::ifstream(folder / "case.json"));
  auto model = peft_parity::make(spec["model"]);
  peft_parity::load_base(*model, folder / "base.safetensors");
  if (spec["dtype"] != "float32") {
    model->to(spec["dtype"] == "bfloat16" ? torch::kBFloat16 : torch::kFloat16);
  }
  const bool autocast = spec.value("autocast", true);
  model->train(spec["train"]);
  const std::vector<std::string> names = spec["adapters"];
  torch::manual_seed(7);
  for (const auto& name : names) {
    const auto from = peft_parity::adapter_folder(folder / "adapter", name);
    if (mode == "train" && name != "default") {
      continue;
    }
    if (mode == "adopt") {
      adopt(*model, from, name, autocast);
      continue;
    }
    if (mode != "save") {
      peft::load_adapter(
          *model,
          from,
          name,
          {.is_trainable = true, .autocast_adapter_dtype = autocast});
      continue;
    }
    auto config = peft::load_adapter_config(from);
    config->inference_mode = false;
    auto adapters = peft::inject_adapter_in_model(
        *config, *model, name, {.autocast_adapter_dtype = autocast});
    const torch::NoGradGuard no_grad;
    for (auto tensor : adapters.parameters(name)) {
      if (tensor.is_floating_point()) {
        tensor.add_(torch::rand_like(tensor), 0.2);
      }
    }
  }
  auto adapters = peft::adapters_of(*model);
  const auto input = peft::load_safetensors(folder / "input.safetensors");
  if (mode == "train") {
    peft::StateDict results;
    results.insert(
        "losses", train(*model, adapters, input["x"], input["direction"]));
    model->eval();
    results.insert("y", model->forward(input["x"]).detach());
    peft::save_safetensors(results, folder / "result.safetensors");
    peft::save_pretrained(*model, folder / "trained");
    return;
  }
  adapters.set_adapter(names);
  std::optional<peft::AloraScope> scope;
  if (spec["alora"].is_array()) {
    peft::AloraOffsets offsets;
    for (const auto& offset : spec["alora"]) {
      offsets.push_back(
          offset.is_null() ? std::nullopt
                           : std::optional(offset.get<std::int64_t>()));
    }
    scope.emplace(std::move(offsets));
  }
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
    if (adapters.config(names[0]).peft_type() == "LORA") {
      peft::save_pretrained(*model, folder / "plain", {.as_plain_lora = true});
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: adapter_tool load|adopt|save|train FOLDER\n";
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
