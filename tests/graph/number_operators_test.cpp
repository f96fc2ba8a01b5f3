// SPDX-License-Identifier: Apache-2.0
// Expected values are Python's own, by its language reference.
#include "graph/number_operators.h"

#include <limits>

#include <gtest/gtest.h>

#include "support/error_of.h"

namespace peft_test {
namespace {

using c10::IValue;

IValue run(const std::string& target, const std::vector<IValue>& arguments) {
  const auto* op = peft::graph::find_number_operator(target);
  EXPECT_NE(op, nullptr) << target;
  EXPECT_EQ(op->arity, arguments.size()) << target;
  return op->run(arguments);
}

TEST(NumberOperators, DivideAndTakeRemaindersAsPythonDoes) {
  // Python: -7 // 2 == -4, -7 % 2 == 1, 7 // -2 == -4, 7 % -2 == -1
  EXPECT_EQ(run("_operator.floordiv", {-7, 2}).toInt(), -4);
  EXPECT_EQ(run("_operator.mod", {-7, 2}).toInt(), 1);
  EXPECT_EQ(run("_operator.floordiv", {7, -2}).toInt(), -4);
  EXPECT_EQ(run("_operator.mod", {7, -2}).toInt(), -1);
  EXPECT_EQ(run("_operator.floordiv", {-8, 2}).toInt(), -4);
  EXPECT_DOUBLE_EQ(run("_operator.truediv", {7, 2}).toDouble(), 3.5);
  // Python: -7.5 // 2 == -4.0, -7.5 % 2 == 0.5
  EXPECT_DOUBLE_EQ(run("_operator.floordiv", {-7.5, 2}).toDouble(), -4.0);
  EXPECT_DOUBLE_EQ(run("_operator.mod", {-7.5, 2}).toDouble(), 0.5);
}

TEST(NumberOperators, KeepIntegersAndFloatsApart) {
  EXPECT_TRUE(run("_operator.add", {1, 2}).isInt());
  EXPECT_TRUE(run("_operator.add", {1, 2.0}).isDouble());
  EXPECT_EQ(run("_operator.pow", {3, 4}).toInt(), 81);
  EXPECT_DOUBLE_EQ(run("_operator.pow", {2, -1}).toDouble(), 0.5);
  EXPECT_EQ(run("math.trunc", {-2.7}).toInt(), -2);
  EXPECT_EQ(run("math.floor", {-2.7}).toInt(), -3);
  EXPECT_EQ(run("math.ceil", {2.1}).toInt(), 3);
  EXPECT_EQ(run("torch.sym_max", {3, 5}).toInt(), 5);
  EXPECT_EQ(run("torch.sym_min", {3, 5}).toInt(), 3);
  EXPECT_EQ(run("torch.sym_ite", {true, 3, 5}).toInt(), 3);
  EXPECT_TRUE(run("_operator.le", {2, 2}).toBool());
  EXPECT_TRUE(run("_operator.and_", {true, true}).isBool());
  EXPECT_EQ(run("_operator.and_", {6, 3}).toInt(), 2);
  EXPECT_FALSE(run("torch.sym_not", {true}).toBool());
}

TEST(NumberOperators, RefuseWhatDoesNotFit) {
  const auto most = std::numeric_limits<std::int64_t>::max();
  const auto least = std::numeric_limits<std::int64_t>::min();
  for (const auto& [target, a, b] :
       std::vector<std::tuple<std::string, std::int64_t, std::int64_t>>{
           {"_operator.add", most, 1},
           {"_operator.sub", least, 1},
           {"_operator.mul", most, 2},
           {"_operator.floordiv", least, -1},
           {"_operator.floordiv", 1, 0},
           {"_operator.mod", 1, 0},
           {"_operator.truediv", 1, 0},
           {"_operator.pow", 10, 40},
           {"_operator.lshift", 1, 64}}) {
    error_of(peft::ErrorKind::program, [&] { run(target, {a, b}); });
  }
  EXPECT_EQ(run("_operator.mod", {least, -1}).toInt(), 0);
  error_of(peft::ErrorKind::program, [&] { run("_operator.add", {"x", 1}); });
  EXPECT_EQ(peft::graph::find_number_operator("_operator.getitem"), nullptr);
}

}  // namespace
}  // namespace peft_test
