// SPDX-License-Identifier: Apache-2.0
// The factors of one weight as pairs of matrices A [r, in] and B [out, r] whose
// products do not meet, and such pairs as the factors of a weight again
// (layouts as in methods/low_rank_factors.h):
//
// matrix, table    the pair itself
// kernel           one pair a group, of rank r / groups: its share of A's rows,
//                  each over all inputs and the window, and of B's outputs
// stack            one pair a matrix: its r rows of A, every count-th column
//                  of B
#pragma once

#include <cstdint>
#include <vector>

#include "methods/factor_pair.h"
#include "methods/weight_layout.h"

namespace peft::detail {

/// How many pairs the factors on such a weight are.
std::int64_t block_count(const WeightLayout& layout);
/// The rank of each when the weight's is `rank`, a multiple of its groups.
std::int64_t block_rank(const WeightLayout& layout, std::int64_t rank);

/// Views where that is possible.
std::vector<FactorPair> split_factors(
    const FactorPair& factors,
    const WeightLayout& layout);

/// The other way: block_count(layout) pairs, all of one rank.
FactorPair join_factors(
    const std::vector<FactorPair>& blocks,
    const WeightLayout& layout);

}  // namespace peft::detail
