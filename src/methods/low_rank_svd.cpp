// SPDX-License-Identifier: Apache-2.0
#include "methods/low_rank_svd.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>

namespace peft::detail {

at::Generator seeded(std::uint64_t seed) {
  return at::detail::createCPUGenerator(seed);
}

Svd whole_svd(const at::Tensor& matrix) {
  const auto [U, S, V] = at::linalg_svd(matrix, /*full_matrices=*/false);
  return {U, S, V};
}

Svd subspace_svd(
    const at::Tensor& matrix,
    std::int64_t q,
    std::int64_t steps,
    at::Generator random) {
  const auto start = at::randn(
      {matrix.size(1), q},
      std::move(random),
      at::TensorOptions(matrix.scalar_type()));
  const auto basis = [](const at::Tensor& columns) {
    return std::get<0>(at::linalg_qr(columns));
  };
  at::Tensor Q = basis(at::matmul(matrix, start.to(matrix.device())));
  for (std::int64_t i = 0; i < steps; ++i) {
    Q = basis(at::matmul(matrix, basis(at::matmul(matrix.t(), Q))));
  }
  Svd svd = whole_svd(at::matmul(Q.t(), matrix));
  svd.U = at::matmul(Q, svd.U);
  return svd;
}

Svd low_rank_svd(
    const at::Tensor& matrix,
    std::int64_t q,
    std::int64_t steps,
    at::Generator random) {
  if (matrix.size(0) >= matrix.size(1)) {
    return subspace_svd(matrix, q, steps, std::move(random));
  }
  const Svd svd = subspace_svd(matrix.t(), q, steps, std::move(random));
  return {svd.V.t(), svd.S, svd.U.t()};
}

Svd low_rank_svd(
    const at::Tensor& matrix,
    std::int64_t q,
    std::int64_t steps,
    std::uint64_t seed) {
  return low_rank_svd(matrix, q, steps, seeded(seed));
}

}  // namespace peft::detail
