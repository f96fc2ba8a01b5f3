// SPDX-License-Identifier: Apache-2.0
// Merging adapters into weights: see Adapters::merge_adapter.
#pragma once

#include <string>
#include <vector>

#include "model/model_state.h"

namespace peft::detail {

/// Merges these beside what is merged already, all or nothing.
void merge(
    ModelState& state,
    const std::vector<std::string>& names,
    const char* asking);

/// Weights and biases with what is merged, or else the active adapters, merged
/// in, by the names that the model has for them.
NamedTensors merged_tensors(ModelState& state, const char* asking);

}  // namespace peft::detail
