// SPDX-License-Identifier: Apache-2.0
// Another adapter's tensors in the place of one that is there.
#pragma once

#include "model/model_state.h"
#include "peft/state_dict.h"

namespace peft::detail {

/// See peft::hotswap_adapter. Layers whose tensors `weights` has none of get
/// such as have no effect; the report names their keys.
LoadReport hotswap(
    ModelState& state,
    AdapterRecord& record,
    const AdapterConfig& config,
    const StateDict& weights,
    const char* asking);

/// Throws Error (state) for an adapter whose values are read from a folder,
/// which nothing else may change.
void check_not_attached(const AdapterRecord& record, const char* asking);

/// Reads the values of an attached adapter that has none, after others have
/// made room; counts the use of one that has. Nothing for other adapters.
void make_resident(ModelState& state, AdapterRecord& record);

}  // namespace peft::detail
