// SPDX-License-Identifier: Apache-2.0
// Targets that an adapter has, as if they were to be injected once more.
#pragma once

#include "model/injection_plan.h"

namespace peft::detail {

/// How the layer's own weight is read, where an adapter's copy may have other
/// rows.
WeightLayout layer_layout(const Target& target);

/// `target` with another method or the same, on the layer's own weight.
PlannedTarget plan_again(
    const Target& target,
    std::shared_ptr<const Method> method);

/// Puts it back on the adapter's own copy of the base, where it has one.
void stay_on_own_base(PlannedTarget& planned, const Target& target);

}  // namespace peft::detail
