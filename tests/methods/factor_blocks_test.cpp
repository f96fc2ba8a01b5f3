// SPDX-License-Identifier: Apache-2.0
// Blocks of factors against what the whole factors do to a weight, and to the
// inputs of a convolution with groups, which have no weight.
#include "methods/factor_blocks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "methods/factor_combination.h"
#include "methods/low_rank_factors.h"
#include "methods/low_rank_svd.h"

namespace {

using at::Tensor;
using peft::detail::block_count;
using peft::detail::block_rank;
using peft::detail::Combination;
using peft::detail::combine_factors;
using peft::detail::factor_shapes;
using peft::detail::FactorPair;
using peft::detail::join_factors;
using peft::detail::multiply_factors;
using peft::detail::seeded;
using peft::detail::split_factors;
using peft::detail::WeightLayout;

using Form = WeightLayout::Form;

const WeightLayout matrix{.form = Form::matrix, .outputs = 5, .inputs = 3};
const WeightLayout transposed{
    .form = Form::matrix,
    .outputs = 5,
    .inputs = 3,
    .inputs_first = true};
const WeightLayout table{.form = Form::table, .outputs = 4, .inputs = 9};
const WeightLayout kernel{
    .form = Form::kernel,
    .outputs = 6,
    .inputs = 4,
    .window = {3, 2}};
const WeightLayout grouped{
    .form = Form::kernel,
    .outputs = 6,
    .inputs = 4,
    .window = {3, 2},
    .groups = 2};
const WeightLayout stack{
    .form = Form::stack,
    .outputs = 5,
    .inputs = 3,
    .count = 4};
const WeightLayout stack_inputs_first{
    .form = Form::stack,
    .outputs = 5,
    .inputs = 3,
    .count = 4,
    .inputs_first = true};

FactorPair
random_pair(const WeightLayout& layout, std::int64_t rank, std::uint64_t seed) {
  auto random = seeded(seed);
  const auto shapes = factor_shapes(layout, rank);
  const Tensor A = at::randn(shapes.A, random, at::kDouble);
  return {A, at::randn(shapes.B, random, at::kDouble)};
}

Tensor product(const FactorPair& pair) {
  return at::matmul(pair.B, pair.A);
}

/// A LoRA of a convolution: A reads all channels, B has the groups.
Tensor convolve(const FactorPair& pair, std::int64_t groups, const Tensor& x) {
  constexpr std::int64_t padding = 0;
  const Tensor s = at::conv2d(x, pair.A);
  return at::conv2d(s, pair.B, {}, /*stride=*/1, padding, 1, groups);
}

TEST(FactorBlocks, JoiningUndoesSplitting) {
  for (const auto& layout :
       {matrix,
        transposed,
        table,
        kernel,
        grouped,
        stack,
        stack_inputs_first}) {
    const FactorPair pair = random_pair(layout, 2, 1);
    const auto blocks = split_factors(pair, layout);
    EXPECT_EQ(static_cast<std::int64_t>(blocks.size()), block_count(layout));
    for (const FactorPair& block : blocks) {
      EXPECT_EQ(block.A.dim(), 2);
      EXPECT_EQ(block.A.size(0), block_rank(layout, 2));
      EXPECT_EQ(block.B.size(1), block_rank(layout, 2));
    }
    const FactorPair joined = join_factors(blocks, layout);
    EXPECT_TRUE(at::equal(joined.A, pair.A)) << layout.describe();
    EXPECT_TRUE(at::equal(joined.B, pair.B)) << layout.describe();
  }
}

TEST(FactorBlocks, OfOneMatrixIsItsProduct) {
  for (const auto& layout : {matrix, transposed, table, kernel}) {
    const FactorPair pair = random_pair(layout, 2, 1);
    const auto blocks = split_factors(pair, layout);
    ASSERT_EQ(blocks.size(), 1u);
    const Tensor weight = multiply_factors(pair.A, pair.B, layout);
    EXPECT_TRUE(at::allclose(
        product(blocks[0]), peft::detail::as_matrix(weight, layout)));
  }
}

TEST(FactorBlocks, OfAStackAreItsMatrices) {
  for (const auto& layout : {stack, stack_inputs_first}) {
    const FactorPair pair = random_pair(layout, 2, 1);
    const Tensor weight = multiply_factors(pair.A, pair.B, layout);
    const auto blocks = split_factors(pair, layout);
    ASSERT_EQ(blocks.size(), 4u);
    for (std::int64_t i = 0; i < 4; ++i) {
      const Tensor one = product(blocks[static_cast<std::size_t>(i)]);
      EXPECT_TRUE(at::allclose(
          layout.inputs_first ? one.t() : one, weight.select(0, i)));
    }
  }
}

TEST(FactorBlocks, OfGroupsMakeEachItsOutputs) {
  const FactorPair pair = random_pair(grouped, 4, 1);
  const Tensor x = at::randn({2, 4, 5, 5}, seeded(3), at::kDouble);
  std::vector<Tensor> outputs;
  for (const FactorPair& block : split_factors(pair, grouped)) {
    outputs.push_back(at::conv2d(x, product(block).view({3, 4, 3, 2})));
  }
  EXPECT_TRUE(
      at::allclose(at::cat(outputs, 1), convolve(pair, grouped.groups, x)));
}

// What plain concatenation of the factors would get wrong.
TEST(FactorBlocks, AreCombinedOneByOne) {
  const auto sum = [](const WeightLayout& layout,
                      const FactorPair& first,
                      const FactorPair& second) {
    const auto blocks = split_factors(first, layout);
    const auto others = split_factors(second, layout);
    std::vector<FactorPair> sums;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      sums.push_back(combine_factors(
          {{blocks[i].A, blocks[i].B, 2}, {others[i].A, others[i].B, -1}},
          {.type = Combination::Type::cat}));
    }
    return join_factors(sums, layout);
  };
  const FactorPair a = random_pair(stack, 2, 1);
  const FactorPair b = random_pair(stack, 3, 2);
  const FactorPair stacked = sum(stack, a, b);
  EXPECT_TRUE(at::allclose(
      multiply_factors(stacked.A, stacked.B, stack),
      2 * multiply_factors(a.A, a.B, stack) -
          multiply_factors(b.A, b.B, stack)));

  const FactorPair c = random_pair(grouped, 2, 1);
  const FactorPair d = random_pair(grouped, 4, 2);
  const FactorPair convolved = sum(grouped, c, d);
  const Tensor x = at::randn({2, 4, 5, 5}, seeded(3), at::kDouble);
  EXPECT_EQ(convolved.A.size(0), 6);
  EXPECT_TRUE(at::allclose(
      convolve(convolved, 2, x), 2 * convolve(c, 2, x) - convolve(d, 2, x)));
}

}  // namespace
