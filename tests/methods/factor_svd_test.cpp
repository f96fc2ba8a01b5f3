// SPDX-License-Identifier: Apache-2.0
// Singular values of products against those of the matrix they make.
#include "methods/factor_svd.h"

#include <algorithm>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/quantile.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include "support/error_of.h"

namespace {

using at::Tensor;
using peft::ErrorKind;
using peft::detail::FactorPair;
using peft::detail::factors_of;
using peft::detail::rank_for_energy;
using peft::detail::reduce_rank;
using peft::detail::seeded;
using peft::detail::Svd;
using peft::detail::svd_of_matrix;
using peft::detail::svd_of_product;
using peft::detail::whole_svd;
using peft_test::error_of;
using testing::HasSubstr;

struct Shape {
  std::int64_t out, in, r;
};

// Tall, wide, square, more ranks than one side and than both, single rows.
constexpr Shape shapes[] = {
    {7, 5, 2},
    {5, 8, 3},
    {6, 6, 6},
    {4, 9, 6},
    {3, 4, 7},
    {1, 8, 3},
    {8, 1, 1}};

Tensor product(const FactorPair& pair) {
  return at::matmul(pair.B, pair.A);
}

FactorPair random_pair(Shape shape) {
  auto random = seeded(7);
  const Tensor A = at::randn({shape.r, shape.in}, random, at::kDouble);
  return {A, at::randn({shape.out, shape.r}, random, at::kDouble)};
}

/// The matrix with all but its `rank` largest singular values zero.
Tensor nearest(const Tensor& matrix, std::int64_t rank) {
  const Svd svd = whole_svd(matrix);
  return at::matmul(
      svd.U.slice(1, 0, rank) * svd.S.slice(0, 0, rank),
      svd.V.slice(0, 0, rank));
}

TEST(FactorSvd, OfAProductIsThatOfItsMatrix) {
  for (const Shape& shape : shapes) {
    const FactorPair pair = random_pair(shape);
    const auto k = std::min({shape.out, shape.r, shape.in});
    const Svd svd = svd_of_product(pair);
    EXPECT_EQ(svd.U.sizes(), (at::IntArrayRef{shape.out, k}));
    EXPECT_EQ(svd.V.sizes(), (at::IntArrayRef{k, shape.in}));
    EXPECT_TRUE(at::allclose(
        svd.S, svd_of_matrix(product(pair)).S.slice(0, 0, k), 1e-9, 1e-12));
    EXPECT_TRUE(at::allclose(
        at::matmul(svd.U * svd.S, svd.V), product(pair), 1e-9, 1e-12));
    const Tensor identity = at::eye(k, at::kDouble);
    EXPECT_TRUE(at::allclose(at::matmul(svd.U.t(), svd.U), identity));
    EXPECT_TRUE(at::allclose(at::matmul(svd.V, svd.V.t()), identity));
  }
}

TEST(FactorSvd, ReducedFactorsAreTheNearestOfTheirRank) {
  for (const Shape& shape : shapes) {
    const FactorPair pair = random_pair(shape);
    for (std::int64_t rank = 1; rank <= 10; ++rank) {
      const FactorPair reduced = reduce_rank(pair, rank);
      EXPECT_EQ(reduced.A.sizes(), (at::IntArrayRef{rank, shape.in}));
      EXPECT_EQ(reduced.B.sizes(), (at::IntArrayRef{shape.out, rank}));
      EXPECT_TRUE(at::allclose(
          product(reduced), nearest(product(pair), rank), 1e-9, 1e-12));
      const FactorPair dense = factors_of(svd_of_matrix(product(pair)), rank);
      EXPECT_TRUE(at::allclose(product(dense), product(reduced), 1e-9, 1e-12));
    }
  }
}

TEST(FactorSvd, FillsRanksThatAreNotThereWithZeros) {
  const FactorPair pair = reduce_rank(random_pair({7, 5, 2}), 6);
  EXPECT_TRUE(at::equal(pair.A.slice(0, 2), at::zeros({4, 5}, at::kDouble)));
  EXPECT_TRUE(at::equal(pair.B.slice(1, 2), at::zeros({7, 4}, at::kDouble)));
}

TEST(FactorSvd, LeavesTheSingularValuesInB) {
  const FactorPair pair = reduce_rank(random_pair({7, 5, 4}), 3);
  EXPECT_TRUE(
      at::allclose(at::matmul(pair.A, pair.A.t()), at::eye(3, at::kDouble)));
  const Tensor S = whole_svd(product(random_pair({7, 5, 4}))).S;
  EXPECT_TRUE(at::allclose(pair.B.norm(2, 0), S.slice(0, 0, 3)));
}

TEST(FactorSvd, ReadsHalfPrecisionAndZeros) {
  FactorPair pair = random_pair({7, 5, 2});
  pair = {pair.A.to(at::kBFloat16), pair.B.to(at::kBFloat16)};
  pair.A.requires_grad_();
  const FactorPair same = reduce_rank(pair, 2);
  EXPECT_EQ(same.A.scalar_type(), at::kFloat);
  EXPECT_FALSE(same.A.requires_grad() || same.B.requires_grad());
  EXPECT_TRUE(at::allclose(
      product(same),
      at::matmul(pair.B.to(at::kFloat), pair.A.to(at::kFloat)),
      1e-5,
      1e-5));
  pair.B = at::zeros_like(pair.B);  // LoRA before training
  EXPECT_TRUE(at::equal(product(reduce_rank(pair, 2)), at::zeros({7, 5})));
}

TEST(FactorSvd, ClampsAtTheQuantile) {
  // B = [2, 0]', A = [0.6, 0.8]: of 0, 0.6, 0.8, 2 the middle is 0.7.
  const Svd svd{
      at::tensor({1.0, 0.0}).view({2, 1}),
      at::tensor({2.0}),
      at::tensor({0.6, 0.8}).view({1, 2})};
  const FactorPair pair = factors_of(svd, 1, 0.5);
  EXPECT_TRUE(at::allclose(pair.B.flatten(), at::tensor({0.7, 0.0})));
  EXPECT_TRUE(at::allclose(pair.A.flatten(), at::tensor({0.6, 0.7})));
  EXPECT_TRUE(at::equal(factors_of(svd, 1, 1).B, factors_of(svd, 1).B));
}

TEST(FactorSvd, ClampsAsTorchsQuantileWould) {
  const Svd svd = svd_of_product(random_pair({9, 11, 5}));
  const FactorPair free = factors_of(svd, 4);
  const Tensor values = at::cat({free.B.flatten(), free.A.flatten()});
  for (const double clamp : {0.7, 0.99}) {
    const double most = at::quantile(values, clamp).item<double>();
    const FactorPair pair = factors_of(svd, 4, clamp);
    EXPECT_TRUE(at::allclose(pair.A, free.A.clamp(-most, most)));
    EXPECT_TRUE(at::allclose(pair.B, free.B.clamp(-most, most)));
  }
}

TEST(FactorSvd, TakesTheQuantileBeforeItFillsUp) {
  const Svd svd = svd_of_product(random_pair({9, 11, 5}));
  const FactorPair full = factors_of(svd, 5, 0.9);
  const FactorPair filled = factors_of(svd, 8, 0.9);
  EXPECT_TRUE(at::equal(filled.A.slice(0, 0, 5), full.A));
  EXPECT_TRUE(at::equal(filled.B.slice(1, 0, 5), full.B));
}

TEST(FactorSvd, CountsRanksByEnergy) {
  // Of squares 16, 4, 4, 1, in sum 25.
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    const Tensor S = at::tensor({4, 2, 2, 1}).to(dtype);
    EXPECT_EQ(rank_for_energy(S, 1e-9), 1);
    EXPECT_EQ(rank_for_energy(S, 0.64), 1);
    EXPECT_EQ(rank_for_energy(S, 0.65), 2);
    EXPECT_EQ(rank_for_energy(S, 0.8), 2);
    EXPECT_EQ(rank_for_energy(S, 0.95), 3);
    EXPECT_EQ(rank_for_energy(S, 1), 4);
    EXPECT_EQ(rank_for_energy(S, 1.5), 4);
  }
  EXPECT_EQ(rank_for_energy(at::tensor({2.0, 1.0, 0.0}), 1), 2);
  EXPECT_EQ(rank_for_energy(at::zeros({3}), 0.9), 1);
}

TEST(FactorSvd, SaysWhatToDo) {
  FactorPair pair = random_pair({7, 5, 2});
  const auto with = [&](double clamp) {
    return [&, clamp] { factors_of(svd_of_product(pair), 2, clamp); };
  };
  EXPECT_THAT(
      error_of(ErrorKind::config, with(1.5)), HasSubstr("between 0 and 1"));
  EXPECT_THAT(error_of(ErrorKind::config, with(0)), HasSubstr("above 0.5"));
  pair.A[0][0] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(error_of(ErrorKind::input, with(1)), HasSubstr("NaN"));
  const Tensor delta = pair.A;
  EXPECT_THAT(
      error_of(ErrorKind::input, [&] { svd_of_matrix(delta); }),
      HasSubstr("NaN"));
}

}  // namespace
