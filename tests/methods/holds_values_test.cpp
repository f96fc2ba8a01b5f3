// SPDX-License-Identifier: Apache-2.0
// Which dtype takes which values. A float of m bits holds every integer up to
// 2^m, and beyond it those that are multiples of a power of two large enough.
#include <limits>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "methods/holds_values.h"

namespace peft_test {
namespace {

using peft::detail::holds_values;
using torch::Tensor;

Tensor longs(std::vector<int64_t> values) {
  return torch::tensor(values, torch::kLong);
}

constexpr int64_t most = std::numeric_limits<int64_t>::max();
constexpr int64_t least = std::numeric_limits<int64_t>::min();

TEST(HoldsValues, IntegersThatAFloatHasExactly) {
  const int64_t float_bits = 1 << 24;
  EXPECT_TRUE(holds_values(
      torch::kFloat, longs({0, -3, float_bits, 2 * float_bits, 1LL << 62})));
  EXPECT_FALSE(holds_values(torch::kFloat, longs({1, float_bits + 1})));
  EXPECT_TRUE(holds_values(torch::kDouble, longs({float_bits + 1, least})));
  EXPECT_FALSE(holds_values(torch::kDouble, longs({(1LL << 53) + 1})));
  EXPECT_FALSE(holds_values(torch::kDouble, longs({most})));
  EXPECT_TRUE(holds_values(torch::kBFloat16, longs({256, 258})));
  EXPECT_FALSE(holds_values(torch::kBFloat16, longs({257})));
  EXPECT_TRUE(holds_values(torch::kHalf, longs({65504})));
  EXPECT_FALSE(holds_values(torch::kHalf, longs({70000})));  // infinite there
  EXPECT_TRUE(holds_values(torch::kFloat, torch::ones({2}, torch::kBool)));
  EXPECT_TRUE(holds_values(torch::kFloat, torch::ones({0}, torch::kLong)));
}

TEST(HoldsValues, FloatsThatAreIntegers) {
  EXPECT_TRUE(holds_values(torch::kLong, torch::tensor({3.0, -7.0})));
  EXPECT_FALSE(holds_values(torch::kLong, torch::tensor({3.5})));
  EXPECT_FALSE(holds_values(torch::kLong, torch::tensor({NAN})));
  EXPECT_FALSE(holds_values(torch::kLong, torch::tensor({INFINITY})));
  EXPECT_FALSE(
      holds_values(torch::kLong, torch::tensor({0x1p63}, torch::kDouble)));
  EXPECT_FALSE(holds_values(torch::kInt, torch::tensor({0x1p31})));
  EXPECT_FALSE(holds_values(torch::kChar, longs({128})));
  EXPECT_TRUE(holds_values(torch::kInt, longs({128})));
}

TEST(HoldsValues, FloatsOfAnyKindAndNoComplexOnes) {
  EXPECT_TRUE(holds_values(torch::kHalf, torch::tensor({1e30})));
  EXPECT_TRUE(holds_values(torch::kFloat, torch::rand({2}, torch::kDouble)));
  EXPECT_FALSE(
      holds_values(torch::kFloat, torch::ones({1}, torch::kComplexFloat)));
}

}  // namespace
}  // namespace peft_test
