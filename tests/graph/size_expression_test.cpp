// SPDX-License-Identifier: Apache-2.0
#include "graph/size_expression.h"

#include <gtest/gtest.h>

namespace peft_test {
namespace {

using peft::graph::SizeExpression;
using peft::graph::Symbols;

SizeExpression parse(const std::string& text) {
  const auto expression = SizeExpression::parse(text);
  EXPECT_TRUE(expression) << text;
  return expression.value_or(SizeExpression::fixed(-1));
}

const std::string s0 = "Symbol('s0', positive=True, integer=True)";

TEST(SizeExpression, EvaluatesWhatSympyWrites) {
  const Symbols symbols = {{"s0", 5}, {"s1", 3}};
  EXPECT_EQ(parse(s0).evaluate(symbols), 5);
  EXPECT_EQ(parse("Integer(-2)").evaluate(symbols), -2);
  EXPECT_EQ(
      parse("Add(Mul(Integer(2), " + s0 + "), Integer(1))").evaluate(symbols),
      11);
  EXPECT_EQ(parse("FloorDiv(" + s0 + ", Integer(2))").evaluate(symbols), 2);
  EXPECT_EQ(parse("Mod(" + s0 + ", Symbol('s1'))").evaluate(symbols), 2);
  EXPECT_EQ(parse("Max(" + s0 + ", Integer(9))").evaluate(symbols), 9);
  EXPECT_EQ(parse("Pow(" + s0 + ", Integer(2))").evaluate(symbols), 25);
}

TEST(SizeExpression, DoesNotGuess) {
  EXPECT_EQ(parse("Symbol('u7')").evaluate({{"s0", 5}}), std::nullopt);
  EXPECT_EQ(parse("Unknown(Integer(1))").evaluate({}), std::nullopt);
  for (const char* text :
       {"", "s0*2", "Integer(", "Symbol(s0)", "Mul(Integer(2)", "Add(1,2))"}) {
    EXPECT_FALSE(SizeExpression::parse(text)) << text;
  }
  std::string deep;
  for (int i = 0; i < 100000; ++i) {
    deep += "Add(";
  }
  EXPECT_FALSE(SizeExpression::parse(deep));
}

TEST(SizeExpression, SolvesForOneUnknownSymbol) {
  Symbols symbols = {{"s1", 3}};
  const auto expression =
      parse("Add(Mul(Integer(2), " + s0 + "), Symbol('s1'))");
  expression.solve(13, symbols);  // 2 * 5 + 3
  EXPECT_EQ(symbols["s0"], 5);
  EXPECT_EQ(expression.text(), "2*s0 + s1");

  Symbols none;
  expression.solve(13, none);  // two unknowns
  EXPECT_TRUE(none.empty());
  Symbols odd = {{"s1", 3}};
  expression.solve(12, odd);  // no integer does it
  EXPECT_FALSE(odd.contains("s0"));
}

}  // namespace
}  // namespace peft_test
