// SPDX-License-Identifier: Apache-2.0
// Factors of the rank one wants: those of the largest singular values of a
// matrix D = U diag(S) V, which is the nearest to D that this rank can be.
//
//   A = V_r   [r, in]      B = U_r diag(S_r)   [out, r]
//
// D is a matrix, or the product of two factors. Then it is not made:
//
//   B = Q_B R_B,  A' = Q_A R_A,  R_B R_A' = u diag(S) v   (r x r)
//   U = Q_B u,  V = v Q_A'
//
// Half precision is read as float32 and the results stay so, without gradient.
// NaN and infinite values are an Error (input).
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include "methods/factor_pair.h"
#include "methods/low_rank_svd.h"

namespace peft::detail {

/// All min(out, in) singular values.
Svd svd_of_matrix(const at::Tensor& delta);
/// Of B A: min(out, r, in) values, and the others are zero.
Svd svd_of_product(const FactorPair& pair);

/// The factors above. Those past the values there are are zeros.
///
/// `clamp` cuts off outliers: entries of both lie within -q and q, their
/// quantile at `clamp` (PEFT's svd_clamp). It depends on the signs that the SVD
/// happens to give its vectors. Throws Error (config) when clamp is no quantile
/// or so small a one that q is negative.
FactorPair factors_of(
    const Svd& svd,
    std::int64_t rank,
    std::optional<double> clamp = std::nullopt);

/// The nearest pair of that rank, for rank above the pair's the same product.
FactorPair reduce_rank(const FactorPair& pair, std::int64_t rank);

/// The fewest first values of S whose squares sum up to `share` of all; at
/// least 1. As PEFT's convert_to_lora counts, in the dtype of S.
std::int64_t rank_for_energy(const at::Tensor& S, double share);

}  // namespace peft::detail
