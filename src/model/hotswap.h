// SPDX-License-Identifier: Apache-2.0
// Another adapter's tensors in the place of one that is there.
#pragma once

#include "model/model_state.h"
#include "peft/state_dict.h"

namespace peft::detail {

/// See peft::hotswap_adapter. Layers whose tensors `weights` has none of get
/// such as have no effect; the report names their keys. `host`: see Swap.
LoadReport hotswap(
    ModelState& state,
    AdapterRecord& record,
    const AdapterConfig& config,
    const StateDict& weights,
    const Host* host,
    const char* asking);

/// Throws Error (state) for an adapter whose values stand in merged weights.
void check_not_merged(
    const ModelState& state,
    const AdapterRecord& record,
    const char* asking);

/// Attached adapter `next` takes the name of attached adapter `name` and its
/// part in what runs; the latter goes. Throws Error where `next` must be read
/// and cannot be; nothing has changed then.
void take_over(
    ModelState& state,
    const std::string& next,
    const std::string& name);

/// The values of an attached adapter, in new tensors.
void read_values(
    ModelState& state,
    AdapterRecord& record,
    const StateDict& weights);

}  // namespace peft::detail
