// SPDX-License-Identifier: Apache-2.0
// The tensors of one planned target and the modules that carry them, made
// while the model is still as it was.
#pragma once

#include "hosting/adapter_modules.h"
#include "model/injection.h"

namespace peft::detail {

// A target with everything made that it needs, still outside the model.
struct MadeTarget {
  PlannedTarget planned;
  SeatedAdapter seated;
};

/// The dtype that `spec` of `target` is made in: the weight's, but float32 for
/// half precision when `autocast`. A copy of a module is read by its operator
/// as the module's own tensor is, and has the dtype of that.
at::ScalarType
made_dtype(const Target& target, const ParameterSpec& spec, bool autocast);

MadeTarget make_target(
    PlannedTarget planned,
    bool trainable,
    const InjectionOptions& options);

/// One that uses the tensors of `owner`, in the place of another layer.
MadeTarget make_tied(PlannedTarget planned, const MadeTarget& owner);

/// Gives a target's tensors that no file holds their values, once those that
/// files hold have arrived. `target` was made empty.
void fill_rest(const Target& target);

}  // namespace peft::detail
