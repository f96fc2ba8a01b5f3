// SPDX-License-Identifier: Apache-2.0
#include "model/fit_to_weights.h"

#include "base/text.h"
#include "model/adapter_tensors.h"

namespace peft::detail {
namespace {

// Layers without a tensor in `weights` whose own weight is that of a layer of
// the same type which has some. Exported programs have lost which modules were
// one object in Python; PEFT gave that one adapter.
std::set<std::string> one_object_in(
    const InjectionPlan& plan,
    const StateDict& weights) {
  const auto is_stored = [&](const Target& target) {
    return !stored_shapes(weights, target.file_prefix).empty();
  };
  std::set<std::string> found;
  for (const PlannedTarget& planned : plan.targets) {
    const Target& target = planned.target;
    if (!target.of_method() || is_stored(target)) {
      continue;
    }
    for (const PlannedTarget& other : plan.targets) {
      if (other.target.of_method() &&
          other.target.layer_type == target.layer_type &&
          other.target.base.is_same(target.base) && is_stored(other.target)) {
        found.insert(target.layer_path);
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
    const GivenWeights& given) {
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
      one_object_in(plan, weights),
      given);
}

}  // namespace peft::detail
