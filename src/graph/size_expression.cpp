// SPDX-License-Identifier: Apache-2.0
#include "graph/size_expression.h"

#include <algorithm>
#include <charconv>

#include "base/text.h"
#include "graph/number_operators.h"
#include "peft/error.h"

namespace peft::graph {

// Grammar: Integer(-3), Symbol('s0', positive=True), Name(argument, ...), 3
class SizeExpressionParser {
 public:
  explicit SizeExpressionParser(const std::string& text) : rest_(text) {}

  std::optional<SizeExpression> run() {
    auto expression = read(0);
    skip_spaces();
    return rest_.empty() ? expression : std::nullopt;
  }

 private:
  static constexpr int deepest = 64;

  std::optional<SizeExpression> read(int depth) {
    skip_spaces();
    if (depth > deepest || rest_.empty()) {
      return std::nullopt;
    }
    SizeExpression made;
    if (rest_.front() == '-' || std::isdigit(unsigned_front())) {
      made.name_ = "Integer";
      return read_number(made.number_) ? std::optional(made) : std::nullopt;
    }
    made.name_ = read_word();
    if (made.name_.empty() || !take('(')) {
      return std::nullopt;
    }
    if (made.name_ == "Integer") {
      return read_number(made.number_) && take(')') ? std::optional(made)
                                                    : std::nullopt;
    }
    if (made.name_ == "Symbol") {
      return read_symbol(made.symbol_) ? std::optional(made) : std::nullopt;
    }
    while (!take(')')) {
      auto argument = read(depth + 1);
      if (!argument) {
        return std::nullopt;
      }
      made.arguments_.push_back(std::move(*argument));
      take(',');
    }
    return made;
  }

  // 's0', positive=True, integer=True)
  bool read_symbol(std::string& name) {
    skip_spaces();
    if (!take('\'')) {
      return false;
    }
    const auto end = rest_.find('\'');
    const auto close = rest_.find(')');
    if (end == std::string_view::npos || close == std::string_view::npos ||
        close < end) {
      return false;
    }
    name = rest_.substr(0, end);
    rest_.remove_prefix(close + 1);
    return true;
  }

  bool read_number(std::int64_t& number) {
    skip_spaces();
    const char* end = rest_.data() + rest_.size();
    const auto [next, error] = std::from_chars(rest_.data(), end, number);
    rest_.remove_prefix(static_cast<std::size_t>(next - rest_.data()));
    return error == std::errc();
  }

  std::string read_word() {
    std::size_t length = 0;
    while (length < rest_.size() &&
           (std::isalnum(static_cast<unsigned char>(rest_[length])) ||
            rest_[length] == '_')) {
      ++length;
    }
    const std::string word(rest_.substr(0, length));
    rest_.remove_prefix(length);
    return word;
  }

  bool take(char wanted) {
    skip_spaces();
    if (rest_.empty() || rest_.front() != wanted) {
      return false;
    }
    rest_.remove_prefix(1);
    return true;
  }

  void skip_spaces() {
    while (!rest_.empty() && rest_.front() == ' ') {
      rest_.remove_prefix(1);
    }
  }

  unsigned char unsigned_front() const {
    return static_cast<unsigned char>(rest_.front());
  }

  std::string_view rest_;
};

namespace {

// The arithmetic is that of the graph's own nodes.
const char* operator_of(const std::string& name) {
  static const std::map<std::string, const char*> names = {
      {"Add", "_operator.add"},
      {"Mul", "_operator.mul"},
      {"Pow", "_operator.pow"},
      {"PowByNatural", "_operator.pow"},
      {"FloorDiv", "_operator.floordiv"},
      {"CleanDiv", "_operator.floordiv"},
      {"Mod", "_operator.mod"},
      {"PythonMod", "_operator.mod"},
      {"Max", "torch.sym_max"},
      {"Min", "torch.sym_min"}};
  const auto found = names.find(name);
  return found == names.end() ? nullptr : found->second;
}

}  // namespace

std::optional<SizeExpression> SizeExpression::parse(const std::string& text) {
  return SizeExpressionParser(text).run();
}

SizeExpression SizeExpression::fixed(std::int64_t size) {
  SizeExpression made;
  made.name_ = "Integer";
  made.number_ = size;
  return made;
}

std::set<std::string> SizeExpression::symbols() const {
  std::set<std::string> found;
  if (is_symbol()) {
    found.insert(symbol_);
  }
  for (const SizeExpression& argument : arguments_) {
    found.merge(argument.symbols());
  }
  return found;
}

std::optional<std::int64_t> SizeExpression::evaluate(
    const Symbols& symbols) const {
  if (is_fixed()) {
    return number_;
  }
  if (is_symbol()) {
    const auto found = symbols.find(symbol_);
    return found == symbols.end() ? std::nullopt : std::optional(found->second);
  }
  const char* target = operator_of(name_);
  if (!target || arguments_.empty()) {
    return std::nullopt;
  }
  const NumberOperator& op = *find_number_operator(target);
  std::optional<std::int64_t> result = arguments_.front().evaluate(symbols);
  for (std::size_t i = 1; result && i < arguments_.size(); ++i) {
    const auto next = arguments_[i].evaluate(symbols);
    if (!next) {
      return std::nullopt;
    }
    try {
      const c10::IValue value = op.run({*result, *next});
      result = value.isInt() ? std::optional(value.toInt()) : std::nullopt;
    } catch (const Error&) {
      return std::nullopt;
    }
  }
  return result;
}

bool SizeExpression::solve(std::int64_t size, Symbols& symbols) const {
  std::set<std::string> unknown = symbols_without(symbols);
  if (unknown.size() != 1) {
    return true;
  }
  const std::string& name = *unknown.begin();
  Symbols trial = symbols;
  const auto at = [&](std::int64_t value) {
    trial[name] = value;
    return evaluate(trial);
  };
  const auto zero = at(0);
  const auto one = at(1);
  const auto two = at(2);
  if (!zero || !one || !two || *one == *zero || *two - *one != *one - *zero) {
    return true;
  }
  const std::int64_t value = (size - *zero) / (*one - *zero);
  if (at(value) != size) {
    return false;
  }
  symbols[name] = value;
  return true;
}

std::set<std::string> SizeExpression::symbols_without(
    const Symbols& known) const {
  std::set<std::string> found = symbols();
  std::erase_if(found, [&](const auto& name) { return known.contains(name); });
  return found;
}

std::string SizeExpression::text() const {
  if (is_fixed()) {
    return std::to_string(number_);
  }
  if (is_symbol()) {
    return symbol_;
  }
  const bool infix = name_ == "Add" || name_ == "Mul";
  std::string text;
  for (const SizeExpression& argument : arguments_) {
    text += text.empty() ? "" : name_ == "Mul" ? "*" : infix ? " + " : ", ";
    text += argument.text();
  }
  return infix ? text : detail::concat(name_, "(", text, ")");
}

}  // namespace peft::graph
