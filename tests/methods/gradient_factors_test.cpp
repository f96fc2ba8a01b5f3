// SPDX-License-Identifier: Apache-2.0
// LoRA-GA on a diagonal gradient, whose singular vectors are the axes but for
// their signs, and whose singular values are 6, 5, 4, 3, 2, 1.
#include "methods/gradient_factors.h"

#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include "support/error_of.h"

namespace {

using at::Tensor;
using peft::ErrorKind;
using peft::detail::FactorPair;
using peft::detail::gradient_factors;
using peft_test::error_of;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::int64_t outputs = 16;
constexpr std::int64_t inputs = 6;

Tensor diagonal(double first, double step) {
  Tensor matrix = at::zeros({outputs, inputs});
  for (std::int64_t i = 0; i < inputs; ++i) {
    matrix[i][i] = first - static_cast<double>(i) * step;
  }
  return matrix;
}

Tensor gradient() {
  return diagonal(6, 1);
}
Tensor weight() {
  return diagonal(3, 0.5);
}

FactorPair factors(
    const std::string& direction,
    const std::string& scale,
    double strength = 2) {
  return gradient_factors(
      weight(), gradient(), /*r=*/2, strength, direction, scale, /*gamma=*/4);
}

/// |A| and |B| are those axes, B's times its singular values and `times`.
void expect_axes(
    const FactorPair& pair,
    const std::vector<std::int64_t>& of_A,
    const std::vector<std::int64_t>& of_B,
    double times_A = 1,
    double times_B = 1) {
  Tensor A = at::zeros({2, inputs});
  Tensor B = at::zeros({outputs, 2});
  for (std::int64_t i = 0; i < 2; ++i) {
    const auto k = static_cast<std::size_t>(i);
    A[i][of_A[k]] = times_A;
    B[of_B[k]][i] = times_B * static_cast<double>(6 - of_B[k]);
  }
  EXPECT_TRUE(at::allclose(pair.A.abs(), A, 1e-4, 1e-4));
  EXPECT_TRUE(at::allclose(pair.B.abs(), B, 1e-4, 1e-4));
}

TEST(GradientFactors, TakesTheDirectionsAsNamed) {
  expect_axes(factors("ArBr", "unit"), {1, 3}, {0, 2});
  expect_axes(factors("A2rBr", "unit"), {2, 3}, {0, 1});
  expect_axes(factors("ArB2r", "unit"), {0, 1}, {2, 3});
}

TEST(GradientFactors, TakesRandomDirectionsTheSameForBoth) {
  const FactorPair pair = factors("random", "unit");
  // So that B A is the gradient with all but two of its first four values gone.
  const Tensor product = at::matmul(pair.B, pair.A);
  const Tensor kept = product.abs().gt(1e-3);
  EXPECT_EQ(kept.sum().item<std::int64_t>(), 2);
  EXPECT_EQ(kept.slice(0, 0, 4).sum().item<std::int64_t>(), 2);
  EXPECT_TRUE(at::allclose(product, gradient() * kept, 1e-4, 1e-4));
  EXPECT_TRUE(at::equal(pair.A, factors("random", "unit").A));
}

TEST(GradientFactors, ScalesAsNamed) {
  // 16^(1/4) / sqrt(4)
  expect_axes(factors("ArB2r", "stable"), {0, 1}, {2, 3}, 1, 1);
  // 3 / 4: the weight's largest over B's first.
  expect_axes(factors("ArB2r", "weight_svd"), {0, 1}, {2, 3}, 1, 0.75);
  expect_axes(factors("ArB2r", "gd_scale"), {0, 1}, {2, 3}, 0.5, 0.5);
  const FactorPair stable = gradient_factors(
      weight(), gradient(), 2, /*strength=*/2, "ArB2r", "stable", /*gamma=*/64);
  expect_axes(stable, {0, 1}, {2, 3}, 1, 0.25);
}

TEST(GradientFactors, LeavesBZeroForAGradientOfZero) {
  for (const char* scale : {"stable", "weight_svd", "gd_scale", "unit"}) {
    const FactorPair pair = gradient_factors(
        weight(), at::zeros({outputs, inputs}), 2, 1, "ArBr", scale, 16);
    EXPECT_EQ(pair.B.abs().max().item<double>(), 0) << scale;
  }
}

TEST(GradientFactors, ReadsHalfPrecisionGradients) {
  const FactorPair pair = gradient_factors(
      weight(), gradient().to(at::kBFloat16), 2, 1, "ArBr", "unit", 16);
  EXPECT_EQ(pair.A.scalar_type(), at::kFloat);
  expect_axes(pair, {1, 3}, {0, 2});
}

TEST(GradientFactors, SaysWhatToDo) {
  const auto with = [](std::int64_t r, const Tensor& G, double gamma) {
    return
        [=] { gradient_factors(weight(), G, r, 1, "ArBr", "stable", gamma); };
  };
  EXPECT_THAT(
      error_of(ErrorKind::config, with(4, gradient(), 16)),
      AllOf(HasSubstr("r = 4 is too large"), HasSubstr("at most 3")));
  EXPECT_NO_THROW(with(3, gradient(), 16)());
  EXPECT_THAT(
      error_of(ErrorKind::shape, with(2, gradient().t(), 16)),
      HasSubstr("[6, 16]"));
  const Tensor broken = gradient() / 0.0;
  EXPECT_THAT(
      error_of(ErrorKind::input, with(2, broken, 16)),
      HasSubstr("the gradient holds NaN or infinite"));
  EXPECT_THAT(
      error_of(ErrorKind::input, with(2, gradient(), 0)),
      HasSubstr("stable_gamma = 0"));
  EXPECT_THAT(
      error_of(ErrorKind::config, [] { factors("BrAr", "unit"); }),
      HasSubstr("'A2rBr'"));
  EXPECT_THAT(
      error_of(ErrorKind::config, [] { factors("ArBr", "svd"); }),
      HasSubstr("'gd_scale'"));
}

}  // namespace
