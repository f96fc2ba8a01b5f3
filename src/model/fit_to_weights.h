// SPDX-License-Identifier: Apache-2.0
// A plan made to agree with the tensors that are about to be loaded.
#pragma once

#include "model/injection_plan.h"
#include "peft/state_dict.h"

namespace peft::detail {

/// `plan` with ranks as the shapes of `weights` have them, parameters read as
/// these shapes fit, and one adapter for layers that were one object where the
/// file was written: those that have no tensors in it, or, at the paths
/// `apart`, the same as another's. `given`: what else planning is to know.
InjectionPlan fit_to_weights(
    InjectionPlan plan,
    const Host& host,
    const ModelState* state,
    const StateDict& weights,
    const GivenTensors& given,
    const std::set<std::string>& apart);

/// Throws Error (unsupported) when the config repeats layers and the model has
/// not all of those that `weights` are for.
void check_replicated(const InjectionPlan& plan, const StateDict& weights);

}  // namespace peft::detail
