// SPDX-License-Identifier: Apache-2.0
// CorDA: as s B A = U_i U_i' W, all directions together are the weight.
#include "methods/covariance_factors.h"

#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include "methods/low_rank_svd.h"
#include "support/error_of.h"

namespace {

using at::Tensor;
using peft::ErrorKind;
using peft::detail::covariance_factors;
using peft::detail::FactorPair;
using peft::detail::seeded;
using peft_test::error_of;
using testing::HasSubstr;

Tensor random(at::IntArrayRef sizes, std::uint64_t seed) {
  return at::randn(sizes, seeded(seed), at::TensorOptions(at::kFloat));
}

Tensor covariance(std::int64_t inputs, std::int64_t rows) {
  const Tensor X = random({rows, inputs}, 5);
  return at::matmul(X.t(), X) / static_cast<double>(rows);
}

Tensor diagonal(const std::vector<double>& values) {
  const auto n = static_cast<std::int64_t>(values.size());
  Tensor matrix = at::zeros({n, n});
  for (std::int64_t i = 0; i < n; ++i) {
    matrix[i][i] = values[static_cast<std::size_t>(i)];
  }
  return matrix;
}

TEST(CovarianceFactors, AllTogetherAreTheWeight) {
  for (const Tensor& W : {random({4, 6}, 1), random({6, 4}, 2)}) {
    const Tensor C = covariance(W.size(1), 50);
    for (const char* method : {"ipm", "kpm"}) {
      const auto [A, B] = covariance_factors(W, C, 4, /*strength=*/2, method);
      EXPECT_TRUE(at::allclose(2 * at::matmul(B, A), W, 1e-3, 1e-3));
    }
  }
}

// The largest and the smallest together are all of them.
TEST(CovarianceFactors, TakesTheLargestOrTheSmallest) {
  const Tensor W = random({5, 6}, 1);
  const Tensor C = covariance(6, 50);
  const auto [A_ipm, B_ipm] = covariance_factors(W, C, 2, 1, "ipm");
  const auto [A_kpm, B_kpm] = covariance_factors(W, C, 3, 1, "kpm");
  EXPECT_EQ(A_kpm.sizes(), (at::IntArrayRef{3, 6}));
  EXPECT_EQ(B_kpm.sizes(), (at::IntArrayRef{5, 3}));
  const Tensor sum = at::matmul(B_ipm, A_ipm) + at::matmul(B_kpm, A_kpm);
  EXPECT_TRUE(at::allclose(sum, W, 1e-3, 1e-3));
  // Columns of B are U_i sqrt(S_i).
  EXPECT_GE(
      B_ipm.norm(2, 0).min().item<double>(),
      B_kpm.norm(2, 0).max().item<double>());
}

TEST(CovarianceFactors, OfDiagonalsIsKnown) {
  // Mean of the diagonal 4, a hundredth of it more: C = 9.04, 2.04, 1.04, and
  // W C = 9.04, 4.08, 5.2.
  const Tensor W = diagonal({1, 2, 5});
  const Tensor C = diagonal({9, 2, 1});
  const auto ipm = covariance_factors(W, C, 1, /*strength=*/4, "ipm");
  const double large = std::sqrt(9.04 / 4);
  EXPECT_NEAR(ipm.B[0][0].abs().item<double>(), large, 1e-5);
  EXPECT_NEAR(ipm.A[0][0].abs().item<double>(), large / 9.04, 1e-5);
  EXPECT_NEAR(ipm.A.abs().sum().item<double>(), large / 9.04, 1e-5);
  const auto kpm = covariance_factors(W, C, 1, /*strength=*/4, "kpm");
  const double small = std::sqrt(4.08 / 4);
  EXPECT_NEAR(kpm.B[1][0].abs().item<double>(), small, 1e-5);
  EXPECT_NEAR(kpm.A[0][1].abs().item<double>(), small / 2.04, 1e-5);
}

TEST(CovarianceFactors, MakesACovarianceOfFewRowsInvertible) {
  const Tensor W = random({6, 6}, 1);
  const auto [A, B] = covariance_factors(W, covariance(6, 1), 6, 1, "ipm");
  EXPECT_TRUE(at::allclose(at::matmul(B, A), W, 1e-2, 1e-2));
}

TEST(CovarianceFactors, SaysWhatToDo) {
  const Tensor W = random({4, 6}, 1);
  const Tensor C = covariance(6, 50);
  const auto with = [&](const Tensor& C_,
                        std::int64_t r,
                        double strength,
                        const std::string& method) {
    return [=] { covariance_factors(W, C_, r, strength, method); };
  };
  EXPECT_THAT(
      error_of(ErrorKind::config, with(C, 5, 1, "ipm")),
      HasSubstr("r = 5 is too large"));
  EXPECT_THAT(
      error_of(ErrorKind::config, with(C, 2, 1, "pca")),
      HasSubstr("'ipm' or 'kpm'"));
  EXPECT_THAT(
      error_of(ErrorKind::shape, with(covariance(4, 9), 2, 1, "ipm")),
      HasSubstr("[4, 4]"));
  EXPECT_THAT(
      error_of(ErrorKind::input, with(C / 0.0, 2, 1, "ipm")),
      HasSubstr("covariance of the layer's inputs holds NaN"));
  EXPECT_THAT(
      error_of(ErrorKind::input, with(at::zeros({6, 6}), 2, 1, "ipm")),
      HasSubstr("cannot be inverted"));
  EXPECT_THAT(
      error_of(ErrorKind::input, with(C, 2, -1, "kpm")),
      HasSubstr("strength -1"));
}

}  // namespace
