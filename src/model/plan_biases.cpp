// SPDX-License-Identifier: Apache-2.0
// bias = "all" or "lora_only": which biases are trained. Each adapter has its
// own copies of them.
#include <map>

#include "base/text.h"
#include "methods/saved_copy.h"
#include "model/plan_parts.h"

namespace peft::detail {
namespace {

// Mixed batches sort the bias as they do the weight it goes with.
WeightLayout layout_of_bias(const HostedLayer& layer) {
  WeightLayout layout;
  for (const HostedTensor& tensor : layer.tensors) {
    layout.positions_first |= tensor.layout && tensor.layout->positions_first;
  }
  return layout;
}

// `prefix`: of the layer's adapter in files; "": it has none.
void plan_copy(
    Planning& planning,
    const HostedLayer& layer,
    HostedTensor bias,
    const std::string& prefix) {
  check_ownership(planning, bias, join_path(layer.path, bias.name));
  bias.layout = layout_of_bias(layer);
  auto method =
      make_trained_bias(prefix.empty() ? "bias" : "base_layer.bias", bias.base);
  Target target{
      .layer_path = layer.path,
      .layer_type = layer.type,
      .tensor_name = bias.name,
      .file_prefix = prefix.empty() ? layer.path : prefix,
      .pattern_path = layer.path,
      .role = Role::trained_bias,
      .layer = layer.seat,
      .base = bias.base};
  planning.plan.targets.push_back(
      {std::move(bias), std::move(target), std::move(method)});
}

// `prefixes`: file prefixes of the adapted layers by path.
void plan_layer_bias(
    Planning& planning,
    const HostedLayer& layer,
    const std::map<std::string, std::string>& prefixes) {
  const auto adapted = prefixes.find(layer.path);
  if (adapted == prefixes.end() && planning.rules.bias == "lora_only") {
    return;
  }
  for (const HostedTensor& tensor : layer.tensors) {
    if (tensor.name == "bias" && !tensor.is_buffer &&
        !planning.saved.contains(join_path(layer.path, "bias"))) {
      plan_copy(
          planning,
          layer,
          tensor,
          adapted == prefixes.end() ? "" : adapted->second);
    }
  }
}

}  // namespace

void plan_biases(Planning& planning) {
  if (planning.rules.bias == "none") {
    return;
  }
  std::map<std::string, std::string> prefixes;  // of adapted layers
  for (const PlannedTarget& planned : planning.plan.targets) {
    if (planned.target.of_method()) {
      prefixes[planned.target.layer_path] = planned.target.file_prefix;
    }
  }
  for (const HostedLayer& layer : planning.layers) {
    plan_layer_bias(planning, layer, prefixes);
  }
}

}  // namespace peft::detail
