// SPDX-License-Identifier: Apache-2.0
// Principal components of batches against those of all rows at once.
#include "methods/incremental_pca.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include "methods/low_rank_svd.h"
#include "support/error_of.h"

namespace {

using at::Tensor;
using peft::ErrorKind;
using peft::detail::IncrementalPca;
using peft::detail::Svd;
using peft::detail::whole_svd;
using peft_test::error_of;
using testing::HasSubstr;

// Features of different spread, away from 0.
Tensor rows_of(std::int64_t n, std::int64_t features, std::uint64_t seed) {
  const Tensor rows = at::randn(
      {n, features}, peft::detail::seeded(seed), at::TensorOptions(at::kFloat));
  Tensor spread = at::ones({features});
  for (std::int64_t i = 0; i < features; ++i) {
    spread[i] = static_cast<double>(features - i);
  }
  return rows * spread + 3;
}

// With every feature a component nothing is lost between the batches, so that
// any number of them must give what all rows give at once.
void expect_pca_of(const Tensor& rows, const IncrementalPca& pca) {
  const Tensor centred = rows.to(at::kDouble) - rows.to(at::kDouble).mean(0);
  const Svd svd = whole_svd(centred);
  const auto k = pca.components().size(0);
  EXPECT_TRUE(at::allclose(
      pca.singular_values().to(at::kDouble), svd.S.slice(0, 0, k), 1e-4, 1e-4));
  const Tensor along =
      (pca.components().to(at::kDouble) * svd.V.slice(0, 0, k)).sum(1).abs();
  EXPECT_TRUE(at::allclose(along, at::ones({k}, at::kDouble), 1e-4, 1e-4));
  const Tensor shares = svd.S.square() / centred.square().sum();
  EXPECT_TRUE(at::allclose(
      pca.explained_variance_ratio().to(at::kDouble),
      shares.slice(0, 0, k),
      1e-4,
      1e-4));
}

TEST(IncrementalPca, IsPcaOfOneBatch) {
  IncrementalPca pca(5);
  EXPECT_FALSE(pca.fitted());
  const Tensor rows = rows_of(30, 5, 1);
  const Tensor before = rows.clone();
  pca.fit(rows);
  EXPECT_TRUE(pca.fitted());
  expect_pca_of(rows, pca);
  EXPECT_TRUE(at::allclose(rows, before, 0, 0)) << "rows are the caller's";
}

TEST(IncrementalPca, OfBatchesIsThatOfAllRows) {
  IncrementalPca pca(5);
  const std::vector<Tensor> batches{
      rows_of(9, 5, 1), rows_of(40, 5, 2) * 2, rows_of(5, 5, 3) - 10};
  for (const Tensor& batch : batches) {
    pca.fit(batch);
  }
  expect_pca_of(at::cat(batches), pca);
}

TEST(IncrementalPca, KeepsTheLargestFewOfManyFeatures) {
  IncrementalPca pca(3);
  pca.fit(rows_of(200, 8, 1));
  EXPECT_EQ(pca.components().sizes(), (at::IntArrayRef{3, 8}));
  EXPECT_EQ(pca.singular_values().sizes(), (at::IntArrayRef{3}));
  EXPECT_EQ(pca.explained_variance_ratio().sizes(), (at::IntArrayRef{3}));
  pca.fit(rows_of(3, 8, 2));  // as few rows as components, fewer than features
  EXPECT_EQ(pca.components().sizes(), (at::IntArrayRef{3, 8}));
}

TEST(IncrementalPca, MakesTheLargestEntryOfEachComponentPositive) {
  // Along -2 e0 + e1 and, less, along e0 + 2 e1.
  const Tensor along = at::zeros({1, 2});
  along[0][0] = -2;
  along[0][1] = 1;
  const Tensor across = at::zeros({1, 2});
  across[0][0] = 1;
  across[0][1] = 2;
  IncrementalPca pca(2);
  pca.fit(at::cat({along * 3, along * -3, across, -across}));
  const Tensor expected = at::cat({-along, across}) / std::sqrt(5.0);
  EXPECT_TRUE(at::allclose(pca.components(), expected, 1e-5, 1e-6));
}

TEST(IncrementalPca, RefusesRowsThatDoNotFit) {
  IncrementalPca pca(3);
  EXPECT_THAT(
      error_of(ErrorKind::shape, [&] { pca.fit(rows_of(2, 8, 1)); }),
      HasSubstr("3 components"));
  EXPECT_THAT(
      error_of(ErrorKind::shape, [&] { pca.fit(rows_of(9, 2, 1)); }),
      HasSubstr("[9, 2]"));
  EXPECT_FALSE(pca.fitted());
  pca.fit(rows_of(9, 8, 1));
  EXPECT_THAT(
      error_of(ErrorKind::shape, [&] { pca.fit(rows_of(9, 7, 1)); }),
      HasSubstr("8 features, these have 7"));
}

}  // namespace
