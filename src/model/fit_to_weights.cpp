// SPDX-License-Identifier: Apache-2.0
#include "model/fit_to_weights.h"

#include <algorithm>

#include "base/text.h"
#include "config/lora_variants.h"
#include "model/adapter_tensors.h"
#include "model/expert_order.h"
#include "model/file_keys.h"
#include "model/told_apart.h"

namespace peft::detail {
namespace {

// Layers whose own weight is that of a layer of the same type, and that have no
// tensor in `weights` where that one has some; or that are `apart` and have
// none but the same. Exported programs have lost which modules were one object
// in Python; PEFT gave that one adapter, and wrote it under every name that the
// object's parents gave it.
OneObject one_object_in(
    const InjectionPlan& plan,
    const StateDict& weights,
    const std::set<std::string>& apart) {
  const auto is_stored = [&](const Target& target) {
    return !stored_shapes(weights, target.file_prefix).empty();
  };
  OneObject found;
  for (const PlannedTarget& planned : plan.targets) {
    const Target& target = planned.target;
    const bool own = target.of_method() && is_stored(target);
    if (!target.of_method() || (own && !apart.contains(target.layer_path))) {
      continue;
    }
    for (const PlannedTarget& other : plan.targets) {
      if (other.target.of_method() &&
          other.target.layer_path != target.layer_path &&
          !found.contains(other.target.layer_path) &&
          other.target.layer_type == target.layer_type &&
          other.target.base.is_same(target.base) && is_stored(other.target) &&
          (!own ||
           are_stored_alike(
               weights, target.file_prefix, other.target.file_prefix))) {
        found.emplace(target.layer_path, own);
        break;
      }
    }
  }
  return found;
}

// Whether the tensors that `method` stores for a weight of this layout have the
// shapes that are given.
bool has_shapes(
    const Method& method,
    const WeightLayout& layout,
    const StoredShapes& given) {
  bool any = false;
  for (const ParameterSpec& spec : method.parameters(layout)) {
    for (const auto& [name, shape] : given) {
      if (name == spec.file_name) {
        any = true;
        if (shape != spec.shape) {
          return false;
        }
      }
    }
  }
  return any;
}

std::string parameter_path(const Target& target) {
  return join_path(target.layer_path, target.tensor_name);
}

// What a pattern is asked about a target whose shapes are known: parameters of
// a targeted module may differ.
WeightName name_of(const PlannedTarget& planned) {
  WeightName name = planned.target.name();
  if (planned.hosted.bare) {
    name.pattern_path = parameter_path(planned.target);
  }
  return name;
}

// In PEFT too a class says which way its parameters lie (is_transposed), and a
// file does not; but its shapes tell, unless the matrices are square.
std::set<std::string> turned_in(
    const InjectionPlan& plan,
    const StateDict& weights) {
  const MethodEntry& entry = method_entry(*plan.config);
  std::set<std::string> found;
  for (const PlannedTarget& planned : plan.targets) {
    if (!planned.target.of_method() ||
        !planned.hosted.layout->without_operator) {
      continue;
    }
    const auto shapes = stored_shapes(weights, planned.target.file_prefix);
    const auto method = entry.make(*plan.config, name_of(planned));
    const WeightLayout& layout = *planned.hosted.layout;
    // Of those, other shapes tell the age of the file.
    if (!is_of_older_order(layout, *plan.config) &&
        !has_shapes(*method, layout, shapes) &&
        has_shapes(*method, turned(layout), shapes)) {
      found.insert(parameter_path(planned.target));
    }
  }
  return found;
}

}  // namespace

void check_replicated(const InjectionPlan& plan, const StateDict& weights) {
  const std::string replication = replication_of(*plan.config);
  if (replication.empty()) {
    return;
  }
  std::set<std::string> prefixes;
  for (const PlannedTarget& planned : plan.targets) {
    prefixes.insert(planned.target.file_prefix);
  }
  const std::string& marker = method_entry(*plan.config).key_prefix;
  std::set<std::string> lost;
  for (const auto& item : weights) {
    const std::string key = without_prefix(item.key());
    const auto at = tensor_name_at(key, marker);
    const std::string layer =
        at == std::string::npos ? "" : key.substr(0, at - 1);
    if (!layer.empty() && !prefixes.contains(layer)) {
      lost.insert(layer);
    }
  }
  if (!lost.empty()) {
    throw Error(
        ErrorKind::unsupported,
        concat(
            "cannot load adapter '",
            plan.name,
            "': it was trained with layer_replication = ",
            replication,
            ", which repeats layers of a model, and this one has no ",
            list_names({lost.begin(), lost.end()}),
            "; build the model with all the layers that this makes, each with "
            "the base weights of the one it repeats, and load into that"));
  }
}

InjectionPlan fit_to_weights(
    InjectionPlan plan,
    const Host& host,
    const ModelState* state,
    const StateDict& weights,
    const GivenTensors& given,
    const std::set<std::string>& apart) {
  const MethodEntry& entry = method_entry(*plan.config);
  for (const PlannedTarget& planned : plan.targets) {
    if (planned.target.of_method() && entry.fit) {
      entry.fit(
          *plan.config,
          name_of(planned),
          *planned.hosted.layout,
          stored_shapes(weights, planned.target.file_prefix));
    }
  }
  return plan_injection(
      *plan.config,
      host,
      state,
      plan.name,
      {.any = true,
       .one_object = one_object_in(plan, weights, apart),
       .turned = turned_in(plan, weights),
       .weights = given.weights,
       .own_base_weights = given.own_base_weights});
}

}  // namespace peft::detail
