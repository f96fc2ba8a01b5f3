// SPDX-License-Identifier: Apache-2.0
// The C++ side of operations_parity.py: operates adapters that PEFT saved.
//
//   operations_tool combine|merge|mixed|hotswap|convert FOLDER
//
// FOLDER holds case.json {model, adapters, operation}, base.safetensors,
// input.safetensors {x} and the adapter folders. Results go to
// FOLDER/result.safetensors and, where an adapter comes out, FOLDER/saved.
#include <fstream>
#include <iostream>

#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "parity/zoo.h"
#include "peft/peft.h"

namespace {

using nlohmann::json;
using torch::Tensor;
namespace fs = std::filesystem;
using Names = std::vector<std::string>;

struct Case {
  fs::path folder;
  Names names;
  json operation;
  Tensor x;
  std::shared_ptr<peft_parity::Model> model;
};

Case read_case(const fs::path& folder) {
  const auto spec = json::parse(std::ifstream(folder / "case.json"));
  Case c{
      folder,
      spec["adapters"],
      spec["operation"],
      peft::load_safetensors(folder / "input.safetensors")["x"],
      peft_parity::make(spec["model"])};
  peft_parity::load_base(*c.model, folder / "base.safetensors");
  c.model->eval();
  for (const auto& name : c.names) {
    peft::load_adapter(
        *c.model, peft_parity::adapter_folder(folder / "adapter", name), name);
  }
  return c;
}

template <class T>
std::optional<T> field(const json& operation, const char* name) {
  return operation.contains(name) ? std::optional(operation[name].get<T>())
                                  : std::nullopt;
}

peft::CombineOptions combine_options(const json& operation) {
  peft::CombineOptions options;
  options.combination_type =
      field<std::string>(operation, "combination_type").value_or("svd");
  options.svd_rank = field<std::int64_t>(operation, "svd_rank");
  options.svd_clamp = field<double>(operation, "svd_clamp");
  options.density = field<double>(operation, "density");
  options.majority_sign_method =
      field<std::string>(operation, "majority_sign_method").value_or("total");
  if (const auto seed = field<std::uint64_t>(operation, "seed")) {
    options.generator = at::detail::createCPUGenerator(*seed);
  }
  return options;
}

void insert_values(
    peft::StateDict& results,
    peft_parity::Model& model,
    const std::string& adapter) {
  for (const auto& item : peft::get_peft_model_state_dict(model, adapter)) {
    results.insert("value." + item.key(), item.value().detach());
  }
}

peft::StateDict combine(Case& c) {
  peft::StateDict results;
  auto adapters = peft::add_weighted_adapter(
      *c.model,
      c.operation["adapters"].get<Names>(),
      c.operation["weights"].get<std::vector<double>>(),
      "new",
      combine_options(c.operation));
  adapters.set_adapter("new");
  results.insert("y", c.model->forward(c.x).detach());
  insert_values(results, *c.model, "new");
  const auto own = peft::get_base_model_state_dict(*c.model);
  const auto merged =
      peft::get_base_model_state_dict(*c.model, peft::BaseValues::merged);
  for (const auto& item : own) {
    const Tensor& weight = merged[item.key()];
    if (weight.sizes() == item.value().sizes()) {  // not a kernel in groups
      results.insert("delta." + item.key(), (weight - item.value()).detach());
    }
  }
  peft::save_adapter(*c.model, c.folder / "saved", "new");
  return results;
}

peft::StateDict merge(Case& c) {
  peft::StateDict results;
  auto adapters = peft::adapters_of(*c.model);
  adapters.merge_adapter(c.operation["adapters"].get<Names>());
  const auto merged =
      peft::get_base_model_state_dict(*c.model, peft::BaseValues::merged);
  for (const auto& item : merged) {
    results.insert("merged." + item.key(), item.value().detach().clone());
  }
  results.insert("y", c.model->forward(c.x).detach());
  return results;
}

peft::StateDict mixed(Case& c) {
  peft::StateDict results;
  const peft::BatchAdapters scope(
      peft::adapters_of(*c.model), c.operation["rows"].get<Names>());
  results.insert("y", c.model->forward(c.x).detach());
  return results;
}

peft::StateDict hotswap(Case& c) {
  peft::StateDict results;
  const std::string name = c.names.front();
  peft::hotswap_adapter(*c.model, c.folder / "next", name);
  results.insert("y", c.model->forward(c.x).detach());
  insert_values(results, *c.model, name);
  peft::save_adapter(*c.model, c.folder / "saved", name);
  return results;
}

peft::StateDict convert(Case& c) {
  const json& rank = c.operation["rank"];
  const auto choice = rank.is_number_integer()
      ? peft::RankChoice(rank.get<std::int64_t>())
      : peft::RankChoice(rank.get<double>());
  const std::string name = c.names.front();
  peft::save_as_lora(*c.model, c.folder / "saved", choice, name);
  peft::StateDict results;
  results.insert("y", c.model->forward(c.x).detach());
  return results;
}

void run(const std::string& operation, const fs::path& folder) {
  using Operation = peft::StateDict (*)(Case&);
  static const std::map<std::string, Operation> operations = {
      {"combine", combine},
      {"merge", merge},
      {"mixed", mixed},
      {"hotswap", hotswap},
      {"convert", convert}};
  Case c = read_case(folder);
  peft::save_safetensors(
      operations.at(operation)(c), folder / "result.safetensors");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: operations_tool OPERATION FOLDER\n";
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
