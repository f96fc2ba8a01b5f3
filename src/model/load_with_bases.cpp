// SPDX-License-Identifier: Apache-2.0
#include "model/load_with_bases.h"

#include <c10/core/InferenceMode.h>

#include "base/text.h"
#include "model/adapter_tensors.h"
#include "model/attach.h"
#include "model/make_target.h"
#include "model/own_bases.h"
#include "model/plan_again.h"

namespace peft::detail {
namespace {

// Targets for what `record` has not, with their values still to come.
std::vector<MadeTarget> make_own_bases(
    const AdapterRecord& record,
    const Host& host,
    const StateDict& weights) {
  const c10::InferenceMode trainable_later(false);
  Mistakes mistakes(
      ErrorKind::shape,
      concat("cannot load the state dict into adapter '", record.name, "'"));
  InjectionPlan plan;
  for (const Target& target : record.targets) {
    plan.targets.push_back(plan_again(target, target.attachment->method));
    stay_on_own_base(plan.targets.back(), target);
  }
  const std::size_t own = record.targets.size();
  plan_own_bases(
      plan,
      host.layers(),
      {.weights = &weights, .own_base_weights = record.own_base_weights},
      mistakes);
  for (std::size_t i = 0; i < own; ++i) {
    const auto& layout = plan.targets[i].own_layout;
    const bool changes = layout && !record.targets[i].tied_to &&
        layout->describe() != record.targets[i].layout.describe();
    if (changes ||
        plan.targets[i].method != record.targets[i].attachment->method) {
      mistakes.add(concat(
          "'",
          record.targets[i].layer_path,
          "' is given with another number of rows than the adapter was made "
          "for; load_adapter makes it with those of its file"));
    }
  }
  mistakes.raise_if_any();
  std::vector<MadeTarget> made;
  for (std::size_t i = own; i < plan.targets.size(); ++i) {
    const auto owner = plan.targets[i].target.tied_to;
    made.push_back(
        owner ? make_tied(std::move(plan.targets[i]), made.at(*owner - own))
              : make_target(
                    std::move(plan.targets[i]),
                    false,
                    {.autocast_adapter_dtype = record.autocast_dtype}));
  }
  return made;
}

bool may_hold_bases(const AdapterRecord& record, const StateDict& weights) {
  for (const auto& item : weights) {
    const std::string key = without_prefix(item.key());
    if (key.find(".base_layer.") != std::string::npos ||
        record.base_keys.contains(key)) {
      return true;
    }
  }
  return false;
}

}  // namespace

LoadReport load_with_bases(
    const std::shared_ptr<ModelState>& state,
    AdapterRecord& record,
    const Host& host,
    const StateDict& weights,
    bool ignore_mismatched_sizes) {
  std::vector<MadeTarget> bases;
  if (may_hold_bases(record, weights)) {
    bases = make_own_bases(record, host, weights);
  }
  if (bases.empty()) {
    return load_tensors(record, weights, ignore_mismatched_sizes);
  }
  AdapterRecord preview{
      .name = record.name,
      .config = record.config->clone(),
      .targets = record.targets};
  preview.base_keys = record.base_keys;
  for (const MadeTarget& made : bases) {
    preview.targets.push_back(made.planned.target);
  }
  const LoadReport report =
      load_tensors(preview, weights, ignore_mismatched_sizes);
  add_targets(bases, state, record, host);
  attach(*state, record, record.attached->id());
  return report;
}

}  // namespace peft::detail
