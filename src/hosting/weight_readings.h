// SPDX-License-Identifier: Apache-2.0
// A tensor that an operator reads, as a weight whose adapters can run on their
// factors inside that operator; nothing when they cannot. In a mixed batch,
// each group's own weight stands in for what has no such form.
#pragma once

#include <optional>

#include "hosting/adapted_weight.h"

namespace peft::detail {

/// A linear map: [outputs, inputs], or [inputs, outputs] when inputs_first.
std::optional<WeightReading> as_linear_map(
    const at::Tensor& tensor,
    bool inputs_first);

/// A whole stack of them, [count, inputs, outputs]; nothing in a mixed batch.
std::optional<CheapReading> as_stack(const at::Tensor& tensor);

/// An untouched weight of the layout `form`.
std::optional<WeightReading> as_whole(
    const at::Tensor& tensor,
    WeightLayout::Form form);

}  // namespace peft::detail
