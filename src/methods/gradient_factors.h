// SPDX-License-Identifier: Apache-2.0
// LoRA-GA (arXiv 2407.05000): factors whose first step goes where full
// fine-tuning's would. With the gradient G = U diag(S) V of a weight [out, in],
// its largest 2 r singular values by low_rank_svd, and i of
//
//   direction   rows of V for A     columns of U diag(S) for B
//   "ArBr"      1, 3, ... 2 r - 1   0, 2, ... 2 r - 2
//   "A2rBr"     r ... 2 r - 1       0 ... r - 1
//   "ArB2r"     0 ... r - 1         r ... 2 r - 1
//   "random"    r of the 2 r        the same r
//
//   scale         then
//   "stable"      B times out^(1/4) / sqrt(gamma)
//   "weight_svd"  B times the weight's largest singular value over B's first
//   "gd_scale"    A and B over the strength s
//   "unit"        nothing
//
// What PEFT draws from torch's own generator comes from one seeded with 0, in
// the same order: the factors are those of PEFT after torch.manual_seed(0).
#pragma once

#include <string>

#include "methods/factor_pair.h"

namespace peft::detail {

/// `weight` and `gradient` are [out, in]; the weight and the factors are
/// float32. s B A is the caller's to take out of the weight. Throws Error:
/// config when 2 r > min(out, in) or a name is none of the above, shape when
/// the two differ, input when the gradient or a factor is not finite.
FactorPair gradient_factors(
    const at::Tensor& weight,
    const at::Tensor& gradient,
    std::int64_t r,
    double strength,
    const std::string& direction,
    const std::string& scale,
    double stable_gamma);

}  // namespace peft::detail
