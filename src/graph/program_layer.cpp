// SPDX-License-Identifier: Apache-2.0
#include "graph/program_layer.h"

namespace peft::graph {
namespace {

// "transformers.models.bert.modeling_bert.BertLayer" -> "BertLayer"
std::string short_type(const std::string& python_class) {
  return python_class.empty()
      ? "Module"
      : python_class.substr(python_class.rfind('.') + 1);
}

std::string class_of(const Findings& findings, const std::string& path) {
  const auto found = findings.module_types.find(path);
  return found == findings.module_types.end() ? "" : found->second;
}

}  // namespace

ProgramLayer::ProgramLayer(
    std::string python_class,
    std::shared_ptr<Weights> weights)
    : Module(short_type(python_class)),
      python_class_(std::move(python_class)),
      weights_(std::move(weights)) {}

void ProgramLayer::add(
    const std::string& name,
    const WeightEntry& entry,
    std::uint32_t number,
    std::vector<WeightRead> reads) {
  const bool is_buffer = entry.role == WeightEntry::Role::buffer;
  if (is_buffer) {
    register_buffer(name, entry.tensor);
  } else {
    register_parameter(name, entry.tensor, entry.tensor.requires_grad());
  }
  members_.push_back({name, &(*weights_)[number], is_buffer, std::move(reads)});
}

void ProgramLayer::add_computed(
    const std::string& path,
    std::vector<WeightRead> reads,
    at::Tensor* read_from,
    std::function<at::Tensor()> compute) {
  const auto dot = path.find('.');
  const auto children = named_children();
  const auto* child = children.find(path.substr(0, dot));
  auto* layer = child ? dynamic_cast<ProgramLayer*>(child->get()) : nullptr;
  if (!layer) {
    return;  // a module without tensors of its own
  }
  if (dot != std::string::npos) {
    layer->add_computed(
        path.substr(dot + 1), std::move(reads), read_from, std::move(compute));
    return;
  }
  layer->members_.push_back(
      {.name = "weight",
       .read_from = read_from,
       .is_buffer = false,
       .reads = std::move(reads),
       .compute = std::move(compute)});
}

std::shared_ptr<ProgramLayer> make_layers(
    const std::vector<std::string>& paths,
    const WeightTable& table,
    const std::vector<std::uint32_t>& numbers,
    const Findings& findings,
    const std::shared_ptr<Weights>& weights) {
  std::map<std::string, std::shared_ptr<ProgramLayer>> layers;
  const std::function<ProgramLayer&(const std::string&)> layer_at =
      [&](const std::string& path) -> ProgramLayer& {
    auto& layer = layers[path];
    if (!layer) {
      layer = std::make_shared<ProgramLayer>(class_of(findings, path), weights);
      if (!path.empty()) {
        const auto [parent, name] = split_name(path);
        layer_at(parent).register_module(name, layer);
      }
    }
    return *layer;
  };
  layer_at("");
  for (const std::string& path : paths) {
    layer_at(path);
  }
  std::map<std::uint32_t, std::vector<WeightRead>> reads;
  for (const WeightRead& read : findings.reads) {
    reads[read.weight].push_back(read);
  }
  for (const std::uint32_t number : numbers) {
    const WeightEntry& entry = table.entries()[number];
    if (entry.role == WeightEntry::Role::constant) {
      continue;
    }
    const auto [path, name] = split_name(entry.name);
    layer_at(path).add(name, entry, number, std::move(reads[number]));
  }
  return layers[""];
}

}  // namespace peft::graph
