// SPDX-License-Identifier: Apache-2.0
// CorDA (arXiv 2406.05223): factors by what a layer's inputs look like. With
// the mean C [in, in] of X' X over them, made invertible on its diagonal,
//
//   W C = U diag(S) V;   B = U_i sqrt(S_i / s), A = sqrt(S_i / s) V_i C^-1
//
// where i are r singular values, s the adapter's strength, and the method is
//   "ipm"  the r largest: the task that the inputs come from, to be learnt
//   "kpm"  the r smallest: what leaves the knowledge in these inputs alone
#pragma once

#include <string>

#include "methods/factor_pair.h"

namespace peft::detail {

/// `weight` is [out, in], `covariance` [in, in]; all computed in float32. s B A
/// is the caller's to take out of the weight. Throws Error: config when
/// r > min(out, in) or the method is neither, shape when the two do not fit,
/// input when the covariance or a factor is not finite or C has no inverse.
FactorPair covariance_factors(
    const at::Tensor& weight,
    const at::Tensor& covariance,
    std::int64_t r,
    double strength,
    const std::string& method);

}  // namespace peft::detail
