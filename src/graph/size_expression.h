// SPDX-License-Identifier: Apache-2.0
// A size that may vary: an expression over symbols, "s0" or "2*s0 + 1", as
// sympy writes it.
//
// Source: sympy.srepr; torch/utils/_sympy/functions.py.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace peft::graph {

using Symbols = std::map<std::string, std::int64_t>;

class SizeExpression {
 public:
  /// nullopt for a text in a language that is not known here.
  static std::optional<SizeExpression> parse(const std::string& text);
  static SizeExpression fixed(std::int64_t size);

  bool is_fixed() const { return name_ == "Integer"; }
  bool is_symbol() const { return name_ == "Symbol"; }
  std::set<std::string> symbols() const;
  /// nullopt when a symbol has no value yet, or the operation is not known.
  std::optional<std::int64_t> evaluate(const Symbols& symbols) const;
  /// When one symbol has no value yet and the expression is linear in it:
  /// gives it the value with which the expression is `size`. False when there
  /// is none.
  bool solve(std::int64_t size, Symbols& symbols) const;
  /// "s0", "2*s0 + 1".
  std::string text() const;

 private:
  friend class SizeExpressionParser;

  std::set<std::string> symbols_without(const Symbols& known) const;

  std::string name_;  // "Integer", "Symbol", "Mul", "Add", ...
  std::int64_t number_ = 0;
  std::string symbol_;
  std::vector<SizeExpression> arguments_;
};

}  // namespace peft::graph
