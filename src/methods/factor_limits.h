// SPDX-License-Identifier: Apache-2.0
// What no machine can hold: ranks and strengths that a config or a file may ask
// for all the same.
#pragma once

#include <cstdint>
#include <string>

#include "base/mistakes.h"
#include "methods/weight_layout.h"

namespace peft::detail {

/// Adds a mistake when low-rank factors of rank `r` on a weight of this layout
/// are larger than any memory, or `strength` is more than float32 has. False:
/// sizes must not be worked out with this rank.
bool check_factors(
    std::int64_t r,
    double strength,
    const WeightLayout& layout,
    const std::string& where,
    Mistakes& mistakes);

/// Adds a mistake when a weight of this dtype cannot be added to with
/// `strength`: libtorch refuses to multiply by what the dtype does not have.
void check_strength(
    double strength,
    at::ScalarType dtype,
    const std::string& where,
    Mistakes& mistakes);

}  // namespace peft::detail
