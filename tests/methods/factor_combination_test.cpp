// SPDX-License-Identifier: Apache-2.0
// Combined factors against the weighted sum of the matrices they make.
#include "methods/factor_combination.h"
#include "methods/factor_svd.h"

#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <gmock/gmock.h>

#include "methods/low_rank_svd.h"
#include "support/error_of.h"

namespace {

using at::Tensor;
using peft::ErrorKind;
using peft::detail::Combination;
using peft::detail::combine_factors;
using peft::detail::FactorPair;
using peft::detail::MajoritySign;
using peft::detail::ScaledFactors;
using peft::detail::seeded;
using peft_test::error_of;
using testing::HasSubstr;

using Parts = std::vector<ScaledFactors>;
using Type = Combination::Type;

constexpr std::int64_t outputs = 7;
constexpr std::int64_t inputs = 5;

Parts parts_of_ranks(
    const std::vector<std::int64_t>& ranks,
    at::ScalarType dtype = at::kDouble) {
  const double weights[] = {0.7, -1.3, 2};
  const double scales[] = {2, 0.5, 1.25};
  auto random = seeded(11);
  Parts parts;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const Tensor A = at::randn({ranks[i], inputs}, random, dtype);
    const Tensor B = at::randn({outputs, ranks[i]}, random, dtype);
    parts.push_back({A, B, weights[i], scales[i]});
  }
  return parts;
}

Tensor one(double entry) {
  return at::full({1, 1}, entry, at::kDouble);
}

Tensor product(const FactorPair& pair) {
  return at::matmul(pair.B, pair.A);
}

Tensor delta(const ScaledFactors& part) {
  return at::matmul(part.B.to(at::kDouble), part.A.to(at::kDouble)) *
      part.scale;
}

std::vector<Tensor> deltas(const Parts& parts) {
  std::vector<Tensor> all;
  for (const ScaledFactors& part : parts) {
    all.push_back(delta(part));
  }
  return all;
}

std::vector<double> weights(const Parts& parts) {
  std::vector<double> all;
  for (const ScaledFactors& part : parts) {
    all.push_back(part.weight);
  }
  return all;
}

Tensor sum(const Parts& parts) {
  Tensor all = at::zeros({outputs, inputs}, at::kDouble);
  for (const ScaledFactors& part : parts) {
    all = all + part.weight * delta(part);
  }
  return all;
}

Tensor nearest(const Tensor& matrix, std::int64_t rank) {
  const auto [U, S, V] = at::linalg_svd(matrix, /*full_matrices=*/false);
  return at::matmul(
      U.slice(1, 0, rank) * S.slice(0, 0, rank), V.slice(0, 0, rank));
}

void expect_close(const Tensor& found, const Tensor& expected) {
  EXPECT_TRUE(at::allclose(found, expected, 1e-9, 1e-11))
      << found << "\nexpected\n"
      << expected;
}

TEST(FactorCombination, LinearWeighsFactorsByRoots) {
  // w' = 4 and -9, with roots 2 and 3: A = 2 * 2 - 3 * 5, B = 2 * 3 + 3 * 7.
  const Parts parts = {
      {one(2.0), one(3.0), /*weight=*/2, /*scale=*/2},
      {one(5.0), one(7.0), -3, 3}};
  const FactorPair pair = combine_factors(parts, {.type = Type::linear});
  expect_close(pair.A, one(-11.0));
  expect_close(pair.B, one(27.0));
}

TEST(FactorCombination, LinearOfOneIsExact) {
  for (const double weight : {3.0, -0.5, 0.0}) {
    Parts parts = parts_of_ranks({3});
    parts[0].weight = weight;
    expect_close(
        product(combine_factors(parts, {.type = Type::linear})), sum(parts));
  }
}

TEST(FactorCombination, SumsOfEntriesTakeFactorsOfAnyShape) {
  auto random = seeded(2);
  const auto kernels = [&] {
    const Tensor A = at::randn({4, 3, 2, 2}, random, at::kDouble);
    return ScaledFactors{A, at::randn({6, 4, 1, 1}, random, at::kDouble), 4};
  };
  const Parts parts = {kernels(), kernels()};
  const FactorPair pair = combine_factors(
      parts, {.type = Type::ties, .density = 0.5, .random = {}});
  expect_close(
      pair.A,
      peft::detail::ties(
          {parts[0].A, parts[1].A}, {2, 2}, 0.5, MajoritySign::total));
  expect_close(
      pair.B,
      peft::detail::ties(
          {parts[0].B, parts[1].B}, {2, 2}, 0.5, MajoritySign::total));
}

TEST(FactorCombination, EachTypeIsTheSumItIsNamedAfter) {
  Parts parts = parts_of_ranks({3, 3});
  parts[0].weight = 2;    // w' = 4
  parts[1].weight = -18;  // w' = -9
  const std::vector<double> of_A = {2, -3};
  const std::vector<double> of_B = {2, 3};
  const std::vector<Tensor> A = {parts[0].A, parts[1].A};
  const std::vector<Tensor> B = {parts[0].B, parts[1].B};
  constexpr auto majority = MajoritySign::frequency;
  const auto expect = [&](Type type, const Tensor& in_A, const Tensor& in_B) {
    const FactorPair pair = combine_factors(
        parts,
        {.type = type,
         .density = 0.6,
         .majority = majority,
         .random = seeded(5)});
    expect_close(pair.A, in_A);
    expect_close(pair.B, in_B);
  };
  using namespace peft::detail;
  expect(
      Type::magnitude_prune,
      magnitude_prune(A, of_A, 0.6),
      magnitude_prune(B, of_B, 0.6));
  expect(
      Type::ties, ties(A, of_A, 0.6, majority), ties(B, of_B, 0.6, majority));
  auto random = seeded(5);  // for A first, then for B
  const Tensor linear_A = dare_linear(A, of_A, 0.6, random);
  expect(Type::dare_linear, linear_A, dare_linear(B, of_B, 0.6, random));
  random = seeded(5);
  const Tensor ties_A = dare_ties(A, of_A, 0.6, majority, random);
  expect(Type::dare_ties, ties_A, dare_ties(B, of_B, 0.6, majority, random));
}

TEST(FactorCombination, CatIsExact) {
  const Parts parts = parts_of_ranks({1, 3, 9});
  const FactorPair pair = combine_factors(parts, {.type = Type::cat});
  EXPECT_EQ(pair.A.size(0), 13);
  expect_close(product(pair), sum(parts));
  // 0.7 * 2 = 1.4 is all in A.
  EXPECT_TRUE(at::equal(pair.A.slice(0, 0, 1), parts[0].A * 1.4));
  EXPECT_TRUE(at::equal(pair.B.slice(1, 1, 4), parts[1].B));
}

TEST(FactorCombination, SvdIsTheNearestToTheSum) {
  const Parts parts = parts_of_ranks({1, 2, 1});
  for (std::int64_t rank = 1; rank <= 8; ++rank) {
    const FactorPair pair =
        combine_factors(parts, {.type = Type::svd, .rank = rank});
    EXPECT_EQ(pair.A.sizes(), (at::IntArrayRef{rank, inputs}));
    EXPECT_EQ(pair.B.sizes(), (at::IntArrayRef{outputs, rank}));
    expect_close(product(pair), nearest(sum(parts), rank));
    if (rank >= 4) {
      expect_close(product(pair), sum(parts));
    }
  }
}

TEST(FactorCombination, SvdOfAnAdapterLessItselfIsNothing) {
  Parts parts = parts_of_ranks({2, 2});
  parts[1] = parts[0];
  parts[1].weight = -parts[0].weight;
  const FactorPair pair =
      combine_factors(parts, {.type = Type::svd, .rank = 2});
  expect_close(product(pair), at::zeros({outputs, inputs}, at::kDouble));
}

TEST(FactorCombination, SvdOfPrunedMatricesPrunesTheMatrices) {
  const Parts parts = parts_of_ranks({2, 4, 1});  // ranks need not be equal
  constexpr double d = 0.4;
  using namespace peft::detail;
  const std::pair<Type, Tensor> cases[] = {
      {Type::magnitude_prune_svd,
       magnitude_prune(deltas(parts), weights(parts), d)},
      {Type::ties_svd,
       ties(deltas(parts), weights(parts), d, MajoritySign::total)},
      {Type::dare_linear_svd,
       dare_linear(deltas(parts), weights(parts), d, seeded(5))},
      {Type::dare_ties_svd,
       dare_ties(
           deltas(parts), weights(parts), d, MajoritySign::total, seeded(5))}};
  for (const auto& [type, matrix] : cases) {
    for (const std::int64_t rank : {2, 5, 6}) {
      const FactorPair pair = combine_factors(
          parts,
          {.type = type, .rank = rank, .density = d, .random = seeded(5)});
      EXPECT_EQ(pair.A.size(0), rank);
      expect_close(product(pair), nearest(matrix, rank));
    }
  }
}

TEST(FactorCombination, ClampsSvdsOnly) {
  const Parts parts = parts_of_ranks({2, 2});
  // The signs of singular vectors are those of the product itself, as in PEFT.
  const FactorPair free =
      peft::detail::factors_of(peft::detail::svd_of_matrix(sum(parts)), 3);
  Combination how{.type = Type::svd, .rank = 3, .svd_clamp = 0.8};
  const FactorPair clamped = combine_factors(parts, how);
  const double most = clamped.B.max().item<double>();
  EXPECT_LT(most, free.B.max().item<double>());
  expect_close(clamped.A, free.A.clamp(-most, most));
  expect_close(clamped.B, free.B.clamp(-most, most));
  how.type = Type::cat;
  expect_close(product(combine_factors(parts, how)), sum(parts));
}

TEST(FactorCombination, RoundsHalfPrecisionNowhere) {
  Parts parts = parts_of_ranks({2, 2}, at::kBFloat16);
  for (ScaledFactors& part : parts) {
    part.A.requires_grad_();
    part.B.requires_grad_();
  }
  for (const Type type : {Type::linear, Type::cat, Type::svd, Type::ties_svd}) {
    const FactorPair pair = combine_factors(parts, {.type = type, .rank = 5});
    EXPECT_EQ(pair.A.scalar_type(), at::kFloat);
    EXPECT_EQ(pair.B.scalar_type(), at::kFloat);
    EXPECT_FALSE(pair.A.requires_grad() || pair.B.requires_grad());
    if (type == Type::cat || type == Type::svd) {
      EXPECT_TRUE(
          at::allclose(product(pair).to(at::kDouble), sum(parts), 1e-5, 1e-5));
    }
  }
}

TEST(FactorCombination, SharesNoMemory) {
  for (const Type type : {Type::linear, Type::cat, Type::magnitude_prune}) {
    const Parts parts = {parts_of_ranks({2}, at::kFloat)[0]};
    const Tensor A = parts[0].A.clone();
    const Tensor B = parts[0].B.clone();
    const FactorPair pair = combine_factors(parts, {.type = type});
    pair.A.zero_();
    pair.B.zero_();
    EXPECT_TRUE(at::equal(parts[0].A, A) && at::equal(parts[0].B, B));
  }
}

TEST(FactorCombination, SaysWhatToDo) {
  Parts parts = parts_of_ranks({2, 2});
  EXPECT_THAT(
      error_of(
          ErrorKind::config,
          [&] {
            combine_factors(
                parts, {.type = Type::ties_svd, .rank = 2, .density = -1});
          }),
      HasSubstr("density = -1"));
  parts[1].B[0][0] = std::numeric_limits<double>::infinity();
  EXPECT_THAT(
      error_of(
          ErrorKind::input,
          [&] { combine_factors(parts, {.type = Type::svd, .rank = 2}); }),
      HasSubstr("infinite"));
  EXPECT_THROW(
      combine_factors(parts_of_ranks({2, 1}), {.type = Type::linear}),
      c10::Error);
}

}  // namespace
