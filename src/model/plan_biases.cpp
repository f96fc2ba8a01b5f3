// SPDX-License-Identifier: Apache-2.0
// bias = "all" or "lora_only": which of the model's own biases are trained.
#include <map>

#include "base/text.h"
#include "model/plan_parts.h"

namespace peft::detail {
namespace {

void check_biases_free(Planning& planning) {
  for (const auto& other :
       planning.state ? planning.state->names() : std::vector<std::string>{}) {
    const std::string bias =
        planning.state->find(other)->config->target_rules().bias;
    if (bias != "none") {
      planning.mistakes.add(
          ErrorKind::config,
          concat(
              "bias = \"",
              planning.rules.bias,
              "\": adapter '",
              other,
              "' already "
              "trains the model's biases (bias = \"",
              bias,
              "\"), "
              "and they are shared; set bias = \"none\" on one of them"));
    }
  }
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
      planning.plan.biases.push_back(
          {adapted == prefixes.end()
               ? join_path(layer.path, "bias")
               : join_path(adapted->second, "base_layer.bias"),
           tensor.base,
           tensor.base.detach().clone()});
    }
  }
}

}  // namespace

void plan_biases(Planning& planning) {
  if (planning.rules.bias == "none") {
    return;
  }
  check_biases_free(planning);
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
