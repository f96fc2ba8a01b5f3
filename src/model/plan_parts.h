// SPDX-License-Identifier: Apache-2.0
// The parts of planning an injection, each in a file of its own: what is
// adapted, what is trained whole, which biases are trained.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "matching/target_matcher.h"
#include "model/injection_plan.h"

namespace peft::detail {

/// What every part reads, and writes its results to.
struct Planning {
  const AdapterConfig& config;
  const TargetRules& rules;  // config's
  const ModelState* state;   // nullptr before the first injection
  const std::vector<HostedLayer>& layers;
  InjectionPlan& plan;
  Mistakes& mistakes;
  std::set<std::string> saved = {};  // tensor paths of modules trained whole
  const GivenTensors& given;
};

/// Adds a mistake when the tensor carries adapters of another owner, or of
/// this model but read as another layout.
void check_ownership(
    Planning& planning,
    const HostedTensor& tensor,
    const std::string& where);

void plan_adapted_weights(
    Planning& planning,
    const std::vector<ModuleName>& names);

/// modules_to_save: every tensor of the chosen modules and what is below them.
void plan_saved_modules(
    Planning& planning,
    const std::vector<ModuleName>& names);

/// trainable_token_indices. After the two above.
void plan_token_rows(Planning& planning);

/// bias = "all" or "lora_only": copies of the biases. After those above.
void plan_biases(Planning& planning);

/// Weights that two layers share.
void plan_ties(Planning& planning);

/// What `owner`, the plan's target number `index`, is at another layer that
/// reads its tensor.
PlannedTarget tied_at(
    const PlannedTarget& owner,
    std::size_t index,
    const HostedLayer& layer,
    const HostedTensor& tensor);

}  // namespace peft::detail
