// SPDX-License-Identifier: Apache-2.0
// Singular values of a matrix W = U diag(S) V: all of them, or the largest q by
// random subspace iteration (Halko et al., arXiv 0909.4061, algorithms 4.4 and
// 5.1):
//
//   Q = qr(W R), R ~ N(0, 1) [n, q];   steps times: Q = qr(W qr(W' Q))
//   Q' W = U_q diag(S) V;   U = Q U_q
//
// R comes from a generator on the CPU, so that one matrix always gives the same
// answer. On CPU it is torch.svd_lowrank's own to the last bit, for the same
// torch after torch.manual_seed(seed).
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace peft::detail {

/// k is min(m, n), or at most q.
struct Svd {
  at::Tensor U;  ///< [m, k]
  at::Tensor S;  ///< [k], largest first
  at::Tensor V;  ///< [k, n]: rows are the right singular vectors
};

/// All min(m, n) of a matrix [m, n], float32 or float64 as those below.
Svd whole_svd(const at::Tensor& matrix);

/// torch.svd_lowrank(matrix, q, niter=steps): the algorithm above on whichever
/// of the matrix and its transpose is tall. Moves `random` on.
Svd low_rank_svd(
    const at::Tensor& matrix,
    std::int64_t q,
    std::int64_t steps,
    at::Generator random);
Svd low_rank_svd(
    const at::Tensor& matrix,
    std::int64_t q,
    std::int64_t steps,
    std::uint64_t seed);

/// The algorithm above on the matrix as it stands, tall or wide.
Svd subspace_svd(
    const at::Tensor& matrix,
    std::int64_t q,
    std::int64_t steps,
    at::Generator random);

/// A generator of its own on the CPU, as torch's is after manual_seed(seed).
at::Generator seeded(std::uint64_t seed);

}  // namespace peft::detail
