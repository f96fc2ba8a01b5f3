// SPDX-License-Identifier: Apache-2.0
// How EVA (arXiv 2410.07170) shares out ranks: the components of all layers are
// sorted by the share of variance they explain, and the first `budget` get one.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace peft::detail {

/// By layer: `shares` [components], largest first, and the first layer that
/// reads the same (or itself), whose shares are then equal and which gets the
/// largest rank among them. Returns the rank of each.
std::vector<std::int64_t> share_ranks(
    const std::vector<at::Tensor>& shares,
    const std::vector<std::size_t>& leaders,
    std::int64_t budget);

}  // namespace peft::detail
