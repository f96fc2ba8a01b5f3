// SPDX-License-Identifier: Apache-2.0
// Sums of pruned tensors on a few entries, by hand.
#include "methods/weighted_sums.h"

#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bernoulli.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <gmock/gmock.h>

#include "methods/low_rank_svd.h"
#include "support/error_of.h"

namespace {

using at::Tensor;
using peft::ErrorKind;
using peft::detail::dare_linear;
using peft::detail::dare_ties;
using peft::detail::magnitude_prune;
using peft::detail::MajoritySign;
using peft::detail::seeded;
using peft::detail::task_arithmetic;
using peft::detail::ties;
using peft_test::error_of;
using testing::HasSubstr;

constexpr auto total = MajoritySign::total;
constexpr auto frequency = MajoritySign::frequency;

Tensor row(std::vector<double> entries) {
  return at::tensor(entries);
}

// At density 0.5 they keep [4, 0, 0, -3] and [-5, 0, 2, 0].
std::vector<Tensor> two() {
  return {row({4, -1, 1.5, -3}), row({-5, 1, 2, -0.5})};
}

TEST(WeightedSums, TaskArithmeticIsTheSum) {
  EXPECT_TRUE(
      at::equal(task_arithmetic(two(), {2, -1}), row({13, -3, 1, -5.5})));
}

TEST(WeightedSums, MagnitudePruneKeepsTheLargest) {
  // [8, 0, 0, -6] + [-50, 0, 20, 0]
  EXPECT_TRUE(
      at::equal(magnitude_prune(two(), {2, 10}, 0.5), row({-42, 0, 20, -6})));
  EXPECT_TRUE(at::equal(
      magnitude_prune(two(), {2, -1}, 1), task_arithmetic(two(), {2, -1})));
  EXPECT_TRUE(at::equal(magnitude_prune(two(), {2, -1}, 0), row({0, 0, 0, 0})));
}

TEST(WeightedSums, TheNumberKeptIsRoundedDown) {
  const auto kept = [](double density) {
    const Tensor sum =
        magnitude_prune({at::arange(1, 101).to(at::kFloat)}, {1}, density);
    return sum.ne(0).sum().item<std::int64_t>();
  };
  EXPECT_EQ(kept(0.299), 29);
  EXPECT_EQ(kept(0.29), 28);  // 0.29 * 100 is 28.999999999999996
  EXPECT_EQ(kept(0.009), 0);
}

TEST(WeightedSums, TiesAveragesWhatHasTheElectedSign) {
  // Sums of what is kept are -1, 0, 2, -3: the signs - + + -. One tensor has
  // each of them but the second.
  EXPECT_TRUE(
      at::equal(ties(two(), {2, 10}, 0.5, total), row({-50, 0, 20, -6})));
  // As many are plus as minus at the first entry, and a tie is plus.
  EXPECT_TRUE(
      at::equal(ties(two(), {2, 10}, 0.5, frequency), row({8, 0, 20, -6})));
  EXPECT_TRUE(at::equal(ties(two(), {2, 10}, 0, total), row({0, 0, 0, 0})));
}

TEST(WeightedSums, TiesTellsLargeFromMany) {
  const std::vector<Tensor> three = {row({5}), row({-1}), row({-2})};
  EXPECT_TRUE(at::equal(ties(three, {1, 1, 1}, 1, total), row({5})));
  EXPECT_TRUE(at::equal(ties(three, {1, 1, 1}, 1, frequency), row({-1.5})));
}

TEST(WeightedSums, TiesElectsBeforeWeighting) {
  // Both vote plus: (1 - 3) / 2. Weighted first, minus would win: -3.
  EXPECT_TRUE(
      at::equal(ties({row({1}), row({3})}, {1, -1}, 1, total), row({-1})));
}

TEST(WeightedSums, DareScalesWhatItKeeps) {
  const Tensor sum =
      dare_linear({at::ones({100, 100})}, {3}, /*density=*/0.25, seeded(0));
  EXPECT_TRUE(at::equal(sum.eq(0).logical_or(sum.eq(12)), at::ones_like(sum)))
      << "entries are 0 or 3 / 0.25";
  // 2500 of 10000 are expected, with a deviation of sqrt(10000 / 4 * 3 / 4).
  const auto kept = sum.ne(0).sum().item<double>();
  EXPECT_NEAR(kept, 2500, 5 * std::sqrt(1875.0));
}

TEST(WeightedSums, DareDrawsForOneTensorAfterTheOther) {
  auto random = seeded(3);
  const Tensor p = at::full({4}, 0.5, at::kDouble);
  const Tensor first = at::bernoulli(p, random) * two()[0] / 0.5;
  const Tensor second = at::bernoulli(p, random) * two()[1] / 0.5;
  EXPECT_TRUE(at::equal(
      dare_linear(two(), {2, -1}, 0.5, seeded(3)), 2 * first - second));
  EXPECT_TRUE(at::equal(
      dare_ties(two(), {2, -1}, 0.5, frequency, seeded(3)),
      ties({first, second}, {2, -1}, 1, frequency)));
}

TEST(WeightedSums, DareKeepsAllOrNothingAtTheEnds) {
  EXPECT_TRUE(at::equal(
      dare_linear(two(), {2, -1}, 1, std::nullopt),
      task_arithmetic(two(), {2, -1})));
  EXPECT_TRUE(at::equal(
      dare_ties(two(), {2, -1}, 1, total, std::nullopt),
      ties(two(), {2, -1}, 1, total)));
  const Tensor none = row({0, 0, 0, 0});
  EXPECT_TRUE(at::equal(dare_linear(two(), {2, -1}, 0, std::nullopt), none));
  EXPECT_TRUE(
      at::equal(dare_ties(two(), {2, -1}, 0, total, std::nullopt), none));
}

TEST(WeightedSums, DareMovesItsGeneratorOrTorchs) {
  const auto theirs = at::detail::getDefaultCPUGenerator();
  const Tensor state = theirs.get_state();
  const std::vector<Tensor> ones = {at::ones({64})};
  auto mine = seeded(1);
  const Tensor first = dare_linear(ones, {1}, 0.5, mine);
  EXPECT_TRUE(at::equal(first, dare_linear(ones, {1}, 0.5, seeded(1))));
  EXPECT_FALSE(at::equal(first, dare_linear(ones, {1}, 0.5, mine)));
  EXPECT_TRUE(at::equal(state, theirs.get_state()));
  dare_linear(ones, {1}, 0.5, std::nullopt);
  EXPECT_FALSE(at::equal(state, theirs.get_state()));
}

TEST(WeightedSums, ReadsHalfPrecisionAsFloat) {
  std::vector<Tensor> halves;
  std::vector<Tensor> floats;
  for (std::uint64_t i = 0; i < 3; ++i) {
    halves.push_back(at::randn({5, 3, 2}, seeded(i), at::kBFloat16));
    halves.back().requires_grad_();
    floats.push_back(halves.back().to(at::kFloat));
  }
  const std::vector<double> weights = {0.3, -1.7, 1};
  const auto expect_equal = [](const Tensor& half, const Tensor& whole) {
    EXPECT_EQ(half.scalar_type(), at::kFloat);
    EXPECT_FALSE(half.requires_grad());
    EXPECT_EQ(half.sizes(), (at::IntArrayRef{5, 3, 2}));
    EXPECT_TRUE(at::equal(half, whole));
  };
  expect_equal(
      task_arithmetic(halves, weights), task_arithmetic(floats, weights));
  expect_equal(
      ties(halves, weights, 0.7, total), ties(floats, weights, 0.7, total));
  expect_equal(
      dare_linear(halves, weights, 0.7, seeded(5)),
      dare_linear(floats, weights, 0.7, seeded(5)));
}

TEST(WeightedSums, RefusesDensitiesThatAreNone) {
  const auto told = [](auto sum) {
    EXPECT_THAT(error_of(ErrorKind::config, sum), HasSubstr("density = "));
  };
  told([] { magnitude_prune(two(), {1, 1}, -0.1); });
  told([] { ties(two(), {1, 1}, std::nan(""), total); });
  told([] { dare_linear(two(), {1, 1}, -1, std::nullopt); });
  told([] { dare_ties(two(), {1, 1}, -1, total, std::nullopt); });
}

TEST(WeightedSums, DoesNotBroadcast) {
  const std::vector<Tensor> uneven = {at::ones({1, 4}), at::ones({2, 4})};
  EXPECT_THROW(task_arithmetic(uneven, {1, 1}), c10::Error);
  EXPECT_THROW(ties(uneven, {1, 1}, 1, total), c10::Error);
}

}  // namespace
