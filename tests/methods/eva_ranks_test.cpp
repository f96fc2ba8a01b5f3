// SPDX-License-Identifier: Apache-2.0
// EVA on rows along the axes, where components and shares are known: pairs
// +s e_i, -s e_i have mean 0, components e_i, and explain s^2 / (sum of all
// s^2).
#include "methods/eva_ranks.h"

#include <limits>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include "support/error_of.h"

namespace {

using at::Tensor;
using peft::ErrorKind;
using peft::detail::EvaRanks;
using peft_test::error_of;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr std::int64_t inputs = 8;

struct Axis {
  std::int64_t index;
  double size;
};

Tensor rows(const std::vector<Axis>& axes) {
  const auto n = static_cast<std::int64_t>(axes.size());
  Tensor all = at::zeros({2 * n, inputs});
  for (std::int64_t i = 0; i < n; ++i) {
    const auto [index, size] = axes[static_cast<std::size_t>(i)];
    all[2 * i][index] = size;
    all[2 * i + 1][index] = -size;
  }
  return all;
}

/// The components e_i.
Tensor axes(const std::vector<std::int64_t>& indices) {
  Tensor all = at::zeros({static_cast<std::int64_t>(indices.size()), inputs});
  for (std::size_t i = 0; i < indices.size(); ++i) {
    all[static_cast<std::int64_t>(i)][indices[i]] = 1;
  }
  return all;
}

void batch(EvaRanks& eva, const std::vector<Tensor>& rows_by_layer) {
  for (std::size_t i = 0; i < rows_by_layer.size(); ++i) {
    eva.see(i, rows_by_layer[i]);
  }
  eva.end_batch();
}

bool are(const Tensor& found, const Tensor& expected) {
  return found.sizes() == expected.sizes() &&
      at::allclose(found.to(at::kFloat), expected, 1e-4, 1e-5);
}

TEST(EvaRanks, GivesTheRanksWhereTheyExplainMost) {
  EvaRanks eva({{"a", 2, inputs}, {"b", 2, inputs}}, {2, 0.99, false});
  // Shares of a: 0.99, 0.004, 0.003, ...; of b: 0.34, 0.28, 0.22, 0.16.
  const std::vector<Tensor> seen{
      rows({{0, 20}, {1, 1.3}, {2, 1.1}, {3, 0.9}}),
      rows({{4, 1.2}, {5, 1.1}, {6, 1.0}, {7, 0.8}})};
  batch(eva, seen);
  EXPECT_FALSE(eva.done()) << "nothing to compare the first batch with";
  batch(eva, seen);
  ASSERT_TRUE(eva.done());
  EXPECT_THAT(eva.ranks(), ElementsAre(1, 3));
  EXPECT_TRUE(are(eva.components()[0], axes({0})));
  EXPECT_TRUE(are(eva.components()[1], axes({4, 5, 6})));
}

TEST(EvaRanks, MayLeaveALayerWithout) {
  EvaRanks eva({{"a", 1, inputs}, {"b", 1, inputs}}, {2, 0.99, false});
  const std::vector<Tensor> seen{
      rows({{0, 1.1}, {1, 1}}),
      rows({{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}, {5, 1}, {6, 1}, {7, 1}})};
  batch(eva, seen);
  EXPECT_FALSE(eva.wants(1)) << "nothing to wait for";
  batch(eva, seen);
  ASSERT_TRUE(eva.done());
  EXPECT_THAT(eva.ranks(), ElementsAre(2, 0));
  EXPECT_EQ(eva.components()[1].sizes(), (at::IntArrayRef{0, inputs}));
}

TEST(EvaRanks, WakesALayerThatGetsARankItHasNotConvergedFor) {
  EvaRanks eva({{"a", 1, inputs}, {"b", 1, inputs}}, {2, 0.99, false});
  batch(eva, {rows({{0, 4}, {1, 2}}), rows({{0, 1}})});
  // a: e0 stays first; second is e2 (9) after e1 (4). b: e1 (100) after e0 (1).
  const Tensor last_of_a = rows({{0, 4}, {2, 3}});
  batch(eva, {last_of_a, rows({{1, 10}})});
  EXPECT_THAT(eva.ranks(), ElementsAre(1, 1));
  EXPECT_FALSE(eva.wants(0));
  EXPECT_TRUE(eva.wants(1));
  // Shares of b fall to 1/8, under the 9/45 of a's second.
  std::vector<Axis> all;
  for (std::int64_t i = 0; i < inputs; ++i) {
    all.push_back({i, 100});
  }
  batch(eva, {rows({{7, 1000}}), rows(all)});  // a's are not taken
  EXPECT_THAT(eva.ranks(), ElementsAre(2, 0));
  EXPECT_TRUE(eva.wants(0));
  EXPECT_FALSE(eva.wants(1));
  EXPECT_FALSE(eva.done());
  batch(eva, {last_of_a, rows(all)});
  ASSERT_TRUE(eva.done());
  EXPECT_TRUE(are(eva.components()[0], axes({0, 2})));
}

TEST(EvaRanks, DecomposesEqualInputsOnce) {
  EvaRanks eva(
      {{"q", 1, inputs}, {"other", 1, inputs}, {"k", 2, inputs}},
      {1, 0.99, false});
  const Tensor shared = rows({{0, 3}, {1, 2}});
  Tensor other = rows({{4, 3}, {5, 2}});
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(eva.wants(0));
    EXPECT_TRUE(eva.wants(1));
    EXPECT_EQ(eva.wants(2), i == 0);
    batch(eva, {shared.clone(), other, shared.clone()});
  }
  ASSERT_TRUE(eva.done());
  // Each pair has shares 9/13 and 4/13, and all of q, k and other want a first;
  // the fourth rank is one of q's and k's seconds, and q has the larger rank.
  EXPECT_THAT(eva.ranks(), ElementsAre(2, 1, 1));
  EXPECT_TRUE(are(eva.components()[0], axes({0, 1})));
  EXPECT_TRUE(are(eva.components()[1], axes({4})));
  EXPECT_TRUE(are(eva.components()[2], axes({0})));
}

TEST(EvaRanks, CopiesTheRowsOfTheFirstBatch) {
  EvaRanks eva({{"a", 1, inputs}, {"b", 1, inputs}}, {1, 0.99, false});
  Tensor memory = rows({{0, 3}});
  eva.see(0, memory);
  memory.copy_(rows({{5, 3}}));
  eva.see(1, memory);
  memory.zero_();
  eva.end_batch();
  batch(eva, {rows({{0, 3}}), rows({{5, 3}})});
  ASSERT_TRUE(eva.done());
  EXPECT_TRUE(are(eva.components()[0], axes({0})));
  EXPECT_TRUE(are(eva.components()[1], axes({5})));
}

TEST(EvaRanks, WhitensEachLayerOnce) {
  EvaRanks eva({{"q", 1, inputs}, {"k", 1, inputs}}, {1, 0.99, true});
  for (int i = 0; i < 2; ++i) {
    batch(eva, {rows({{0, 3}}), rows({{0, 3}})});
  }
  ASSERT_TRUE(eva.done());
  // Four rows of +-3: singular value 6.
  for (const Tensor& A : eva.components()) {
    EXPECT_TRUE(are(A, axes({0}) / std::sqrt(6.0)));
  }
}

TEST(EvaRanks, PassesOverBatchesWithTooFewRows) {
  EvaRanks eva({{"a", 2, inputs}}, {2, 0.99, false});
  batch(eva, {rows({{0, 3}})});
  batch(eva, {rows({{0, 3}})});
  EXPECT_FALSE(eva.done());
  EXPECT_THAT(
      eva.progress(),
      AllOf(
          HasSubstr("0 of 1"),
          HasSubstr("'a' needs 4 rows in one batch and saw 2 at most")));
  EXPECT_THAT(
      error_of(ErrorKind::state, [&] { eva.components(); }),
      HasSubstr(eva.progress()));
  const Tensor enough = rows({{0, 3}, {1, 2}});
  batch(eva, {enough});
  batch(eva, {rows({{6, 30}})});
  batch(eva, {enough});
  EXPECT_THAT(eva.progress(), Not(HasSubstr("rows in one batch")));
  ASSERT_TRUE(eva.done());
  EXPECT_TRUE(are(eva.components()[0], axes({0, 1})));
}

TEST(EvaRanks, SaysThatRowsThatNeverVaryExplainNothing) {
  EvaRanks eva({{"still", 1, inputs}, {"a", 1, inputs}}, {2, 0.99, false});
  for (int i = 0; i < 2; ++i) {
    batch(eva, {rows({{0, 0}, {1, 0}}) + 1, rows({{0, 3}, {1, 2}})});
  }
  EXPECT_THAT(eva.ranks(), ElementsAre(0, 2));
}

TEST(EvaRanks, RoundsHalvesAsPython) {
  // round(5 * 0.5) == 2, round(3 * 0.5) == 2
  EXPECT_NO_THROW(EvaRanks({{"a", 5, 2}, {"b", 3, 2}}, {0.5, 0.99, false}));
}

TEST(EvaRanks, NamesAllLayersThatAreTooNarrow) {
  const auto make = [] {
    EvaRanks({{"a", 2, 3}, {"fits", 2, 4}, {"b", 4, 7}}, {2, 0.99, false});
  };
  EXPECT_THAT(
      error_of(ErrorKind::config, make),
      AllOf(
          HasSubstr("2 mistakes"),
          HasSubstr("'a' needs 4 components, r = 2 times rho = 2, of only 3"),
          HasSubstr("'b' needs 8"),
          Not(HasSubstr("fits"))));
}

TEST(EvaRanks, RefusesRowsThatDoNotFit) {
  EvaRanks eva({{"a", 1, inputs}, {"b", 1, inputs}}, {1, 0.99, false});
  EXPECT_THAT(
      error_of(ErrorKind::shape, [&] { eva.see(0, at::zeros({2, 3})); }),
      HasSubstr("'a' needs rows of 8 inputs"));
  const Tensor broken = rows({{0, std::numeric_limits<double>::quiet_NaN()}});
  EXPECT_THAT(
      error_of(ErrorKind::input, [&] { eva.see(0, broken); }),
      HasSubstr("'a' hold NaN"));
  eva.see(0, rows({{0, 1}}));
  EXPECT_THAT(
      error_of(ErrorKind::target, [&] { eva.end_batch(); }),
      HasSubstr("'b' did not run in the first batch"));
}

}  // namespace
