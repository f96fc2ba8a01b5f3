// SPDX-License-Identifier: Apache-2.0
// The second half of an injection: tensors are made and the model is changed.
#pragma once

#include <functional>

#include "model/injection_plan.h"
#include "peft/state_dict.h"

namespace peft::detail {

struct MadeTarget;
class ModuleHost;

struct InjectionOptions {
  /// When set, the layers, ranks and variant are those of these tensors.
  const StateDict* layers_of = nullptr;
  /// When set, the adapter starts with these tensors instead of fresh ones,
  /// its ranks follow their shapes, and keys that are missing or fit nowhere
  /// are an Error (unless `partial`).
  const StateDict* weights = nullptr;
  bool partial = false;
  /// See LoadOptions.
  bool own_base_weights = false;
  /// Tensors without values, on the meta device: see InjectOptions.
  bool empty = false;
  /// What a pass over data found: see InjectOptions.
  const StateDict* init_data = nullptr;
  bool activate = true;
  /// See InjectOptions.
  bool autocast_adapter_dtype = true;
  /// Reads the values of an adapter that is attached without them: see
  /// peft/attach.h. Its shapes are those of `weights`.
  std::function<StateDict()> source = nullptr;
};

Adapters inject(
    const AdapterConfig& config,
    const ModuleHost& host,
    const std::string& name,
    const InjectionOptions& options = {});

/// Carries out a plan that was checked. `state` is the model's, or nullptr.
Adapters carry_out(
    InjectionPlan plan,
    const Host& host,
    std::shared_ptr<ModelState> state,
    const InjectionOptions& options);

/// Puts targets that were made for `record` into the model and the record,
/// whose attached adapter is the caller's to make anew. What throws leaves the
/// model as it was.
void add_targets(
    std::vector<MadeTarget>& made,
    const std::shared_ptr<ModelState>& state,
    AdapterRecord& record,
    const Host& host);

/// Takes the modules of `record` out of the tree. Part of delete, unload and
/// undo.
void remove_from_layers(const AdapterRecord& record);

/// Puts plain tensors back in the places that were adapted after the first
/// `kept`. No forward may run meanwhile: layers' members are written.
void put_bases_back(ModelState& state, std::size_t kept);

/// Gives the model's own parameters the requires_grad they had before the
/// first injection, except where the user has thawed them since.
void restore_requires_grad(ModelState& state);

}  // namespace peft::detail
