// SPDX-License-Identifier: Apache-2.0
// modules_to_save: a trained copy of every tensor of the chosen modules.
#include <algorithm>

#include "base/text.h"
#include "methods/saved_copy.h"
#include "model/layer_names.h"
#include "model/plan_parts.h"

namespace peft::detail {
namespace {

bool is_saved_elsewhere(const Planning& planning, const HostedTensor& tensor) {
  return std::any_of(
      planning.plan.targets.begin(),
      planning.plan.targets.end(),
      [&](const PlannedTarget& planned) {
        return planned.target.role == Role::saved_copy &&
            planned.target.base.is_same(tensor.base);
      });
}

// As its layer reads it: what an attention adds to a product, too, has the
// positions first.
HostedTensor as_read(const HostedTensor& tensor, const HostedLayer& layer) {
  HostedTensor read = tensor;
  const bool positions_first =
      std::any_of(layer.tensors.begin(), layer.tensors.end(), [](auto& other) {
        return other.layout && other.layout->positions_first;
      });
  if (!read.layout && positions_first) {
    read.layout = WeightLayout{.positions_first = true};
  }
  return read;
}

// False when the layer has no tensors at all.
bool plan_saved_layer(
    Planning& planning,
    const HostedLayer& layer,
    const std::string& chosen) {
  if (!layer.unknown_tensors.empty()) {
    planning.mistakes.add(
        ErrorKind::unsupported,
        concat(
            "modules_to_save: '",
            chosen,
            "' holds '",
            layer.path,
            "', a ",
            layer.type,
            " whose tensors ",
            list_names(layer.unknown_tensors),
            is_foreign(layer)
                ? " the script reads from a list that it keeps beside them, "
                  "where no copy can stand; export the model with torch.export "
                  "instead"
                : " this library cannot swap; if they are members of a class "
                  "of yours, register it with peft::register_layer"));
    return true;
  }
  for (const HostedTensor& tensor : layer.tensors) {
    if (is_computed(layer, tensor)) {
      continue;  // what it is made of is trained
    }
    if (!planning.saved.insert(join_path(layer.path, tensor.name)).second) {
      continue;  // chosen by two entries
    }
    if (planning.rules.ensure_weight_tying &&
        is_saved_elsewhere(planning, tensor)) {
      continue;  // plan_ties.cpp makes it one copy
    }
    check_ownership(planning, tensor, join_path(layer.path, tensor.name));
    planning.plan.targets.push_back(
        {as_read(tensor, layer),
         Target{
             .layer_path = layer.path,
             .layer_type = layer.type,
             .tensor_name = tensor.name,
             .file_prefix = layer.path,
             .pattern_path = layer.path,
             .role = Role::saved_copy,
             .layer = layer.seat,
             .base = tensor.base},
         make_saved_copy(tensor.name, tensor.base, tensor.is_buffer)});
  }
  return !layer.tensors.empty();
}

}  // namespace

void plan_saved_modules(
    Planning& planning,
    const std::vector<ModuleName>& names) {
  for (const auto& chosen : match_modules_to_save(planning.config, names)) {
    bool any = false;
    for (const HostedLayer& layer : planning.layers) {
      if (layer.path == chosen || layer.path.starts_with(chosen + ".")) {
        any |= plan_saved_layer(planning, layer, chosen);
      }
    }
    if (!any) {
      planning.mistakes.add(
          ErrorKind::target,
          concat("modules_to_save: '", chosen, "' has no tensors to train"));
    }
  }
}

}  // namespace peft::detail
