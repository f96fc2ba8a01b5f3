// SPDX-License-Identifier: Apache-2.0
#include "model/fit_to_weights.h"

#include "base/text.h"
#include "model/adapter_tensors.h"
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

}  // namespace

InjectionPlan fit_to_weights(
    InjectionPlan plan,
    const Host& host,
    const ModelState* state,
    const StateDict& weights,
    const GivenWeights& given,
    const std::set<std::string>& apart) {
  const MethodEntry& entry = method_entry(*plan.config);
  for (const PlannedTarget& planned : plan.targets) {
    if (planned.target.of_method() && entry.fit) {
      WeightName name = planned.target.name();
      if (planned.hosted.bare) {
        name.pattern_path =
            join_path(planned.target.layer_path, planned.target.tensor_name);
      }
      entry.fit(
          *plan.config,
          name,
          *planned.hosted.layout,
          stored_shapes(weights, planned.target.file_prefix));
    }
  }
  return plan_injection(
      *plan.config,
      host,
      state,
      plan.name,
      one_object_in(plan, weights, apart),
      given);
}

}  // namespace peft::detail
