// SPDX-License-Identifier: Apache-2.0
// The low-rank SVD against its formula, and against matrices it gets whole.
#include "methods/low_rank_svd.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

namespace {

using at::Tensor;
using peft::detail::low_rank_svd;
using peft::detail::seeded;
using peft::detail::subspace_svd;
using peft::detail::Svd;
using peft::detail::whole_svd;

Tensor random(at::IntArrayRef sizes) {
  return at::randn(sizes, seeded(7), at::TensorOptions(at::kDouble));
}

// Rank 3, whatever the shape.
Tensor of_rank_3(std::int64_t rows, std::int64_t columns) {
  return at::matmul(random({rows, 3}), random({3, columns}));
}

Tensor product(const Svd& svd) {
  return at::matmul(svd.U * svd.S, svd.V);
}

TEST(LowRankSvd, GetsAMatrixOfLowRankWhole) {
  for (const Tensor& matrix : {of_rank_3(20, 9), of_rank_3(9, 20)}) {
    const Svd svd = low_rank_svd(matrix, /*q=*/3, /*steps=*/2, /*seed=*/0);
    EXPECT_EQ(svd.U.sizes(), (at::IntArrayRef{matrix.size(0), 3}));
    EXPECT_EQ(svd.V.sizes(), (at::IntArrayRef{3, matrix.size(1)}));
    EXPECT_TRUE(at::allclose(product(svd), matrix));
    const Tensor identity = at::eye(3, at::kDouble);
    EXPECT_TRUE(at::allclose(at::matmul(svd.U.t(), svd.U), identity));
    EXPECT_TRUE(at::allclose(at::matmul(svd.V, svd.V.t()), identity));
    EXPECT_TRUE(at::allclose(svd.S, whole_svd(matrix).S.slice(0, 0, 3)));
  }
}

TEST(LowRankSvd, FollowsTheFormulaFromTorchsOwnStart) {
  const Tensor W = random({12, 8});
  auto generator = at::detail::createCPUGenerator(42);
  const Tensor R = at::randn({8, 4}, generator, at::kDouble);
  const auto basis = [](const Tensor& X) {
    return std::get<0>(at::linalg_qr(X));
  };
  Tensor Q = basis(at::matmul(W, R));
  Q = basis(at::matmul(W, basis(at::matmul(W.t(), Q))));
  const auto [U, S, V] =
      at::linalg_svd(at::matmul(Q.t(), W), /*full_matrices=*/false);

  const Svd svd = low_rank_svd(W, /*q=*/4, /*steps=*/1, /*seed=*/42);
  EXPECT_TRUE(at::equal(svd.U, at::matmul(Q, U)));
  EXPECT_TRUE(at::equal(svd.S, S));
  EXPECT_TRUE(at::equal(svd.V, V));
}

TEST(LowRankSvd, TakesWideMatricesByTheirTranspose) {
  const Tensor W = random({8, 12});
  const Svd wide = low_rank_svd(W, 4, 1, /*seed=*/3);
  const Svd tall = low_rank_svd(W.t(), 4, 1, /*seed=*/3);
  EXPECT_TRUE(at::equal(wide.U, tall.V.t()));
  EXPECT_TRUE(at::equal(wide.V, tall.U.t()));
  // One step does not get all of it, so the start shows.
  const Svd as_it_stands = subspace_svd(W, 4, 1, seeded(3));
  EXPECT_FALSE(at::allclose(as_it_stands.S, wide.S));
}

TEST(LowRankSvd, MovesAGeneratorOnAndLeavesTorchsAlone) {
  const Tensor W = random({12, 8});
  const auto theirs = at::detail::getDefaultCPUGenerator();
  const Tensor state = theirs.get_state();
  auto mine = seeded(1);
  const Svd first = low_rank_svd(W, 2, 0, mine);
  EXPECT_TRUE(at::equal(first.S, low_rank_svd(W, 2, 0, /*seed=*/1).S));
  EXPECT_FALSE(at::equal(first.S, low_rank_svd(W, 2, 0, mine).S));
  EXPECT_TRUE(at::equal(state, theirs.get_state()));
}

}  // namespace
