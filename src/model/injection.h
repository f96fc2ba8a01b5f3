// SPDX-License-Identifier: Apache-2.0
// The second half of an injection: tensors are made and the model is changed.
#pragma once

#include "model/injection_plan.h"
#include "peft/state_dict.h"

namespace peft::detail {

struct InjectionOptions {
  /// When set, the layers, ranks and variant are those of these tensors.
  const StateDict* layers_of = nullptr;
  /// When set, the adapter starts with these tensors instead of fresh ones,
  /// its ranks follow their shapes, and keys that are missing or fit nowhere
  /// are an Error (unless `partial`).
  const StateDict* weights = nullptr;
  bool partial = false;
  /// Tensors without values, on the meta device: see InjectOptions.
  bool empty = false;
  /// What a pass over data found: see InjectOptions.
  const StateDict* init_data = nullptr;
};

Adapters inject(
    const AdapterConfig& config,
    const Host& host,
    const std::string& name,
    const InjectionOptions& options = {});

/// Carries out a plan that was checked. `state` is the model's, or nullptr.
Adapters carry_out(
    InjectionPlan plan,
    const Host& host,
    std::shared_ptr<ModelState> state,
    const InjectionOptions& options);

/// Takes `record` out of the layers it stands on, and adapted tensors out of
/// places that have no adapter left. Part of delete, unload and undo.
void remove_from_layers(ModelState& state, const AdapterRecord& record);

/// Gives the model's own parameters the requires_grad they had before the
/// first injection, except where the user has thawed them since.
void restore_requires_grad(ModelState& state);

}  // namespace peft::detail
