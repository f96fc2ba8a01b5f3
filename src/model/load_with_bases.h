// SPDX-License-Identifier: Apache-2.0
// A state dict into an adapter that is in a model already.
#pragma once

#include "model/model_state.h"

namespace peft::detail {

/// As load_tensors; parts of the base that `weights` holds and `record` has no
/// copy of become the adapter's own first: see own_bases.h. Throws Error where
/// the adapter's other tensors would have to change their shapes.
LoadReport load_with_bases(
    const std::shared_ptr<ModelState>& state,
    AdapterRecord& record,
    const Host& host,
    const StateDict& weights,
    bool ignore_mismatched_sizes);

}  // namespace peft::detail
