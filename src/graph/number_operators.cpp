// SPDX-License-Identifier: Apache-2.0
#include "graph/number_operators.h"

#include <cmath>
#include <limits>
#include <map>

#include "base/text.h"
#include "peft/error.h"

namespace peft::graph {
namespace {

using c10::IValue;
using Arguments = std::vector<IValue>;
using Integer = std::int64_t;

[[noreturn]] void fail(const char* what) {
  throw Error(ErrorKind::program, what);
}

bool whole(const IValue& value) {
  return value.isInt() || value.isBool();
}

Integer integer(const IValue& value) {
  if (value.isBool()) {
    return value.toBool() ? 1 : 0;
  }
  if (!value.isInt()) {
    fail("an integer is expected");
  }
  return value.toInt();
}

double number(const IValue& value) {
  if (value.isDouble()) {
    return value.toDouble();
  }
  return static_cast<double>(integer(value));
}

Integer checked(bool overflow, Integer result) {
  if (overflow) {
    fail("an integer does not fit into 64 bits");
  }
  return result;
}

Integer add(Integer a, Integer b) {
  Integer sum = 0;
  const bool overflow = __builtin_add_overflow(a, b, &sum);
  return checked(overflow, sum);
}

Integer subtract(Integer a, Integer b) {
  Integer difference = 0;
  const bool overflow = __builtin_sub_overflow(a, b, &difference);
  return checked(overflow, difference);
}

Integer multiply(Integer a, Integer b) {
  Integer product = 0;
  const bool overflow = __builtin_mul_overflow(a, b, &product);
  return checked(overflow, product);
}

// Rounds down, as Python does.
Integer floor_divide(Integer a, Integer b) {
  if (b == 0) {
    fail("division by zero");
  }
  if (b == -1) {
    return subtract(0, a);
  }
  const Integer quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

// Has the sign of the divisor, as in Python.
Integer modulo(Integer a, Integer b) {
  if (b == 0) {
    fail("modulo by zero");
  }
  if (b == -1) {
    return 0;
  }
  const Integer rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

Integer power(Integer base, Integer exponent) {
  Integer result = 1;
  while (exponent > 0) {
    if (exponent % 2 == 1) {
      result = multiply(result, base);
    }
    exponent /= 2;
    if (exponent > 0) {
      base = multiply(base, base);
    }
  }
  return result;
}

Integer shifted_left(Integer a, Integer places) {
  if (places < 0 || places > 62) {
    fail("a shift by less than 0 or more than 62");
  }
  return multiply(a, Integer{1} << places);
}

Integer shifted_right(Integer a, Integer places) {
  if (places < 0) {
    fail("a shift by less than 0");
  }
  return a >> std::min<Integer>(places, 63);
}

Integer to_integer(double value) {
  constexpr double limit = 9223372036854775808.0;  // 2^63
  if (!(value >= -limit && value < limit)) {
    fail("a number does not fit into a 64-bit integer");
  }
  return static_cast<Integer>(value);
}

template <class Whole, class Real>
IValue arithmetic(const Arguments& a, Whole whole_op, Real real_op) {
  if (whole(a[0]) && whole(a[1])) {
    return whole_op(integer(a[0]), integer(a[1]));
  }
  return real_op(number(a[0]), number(a[1]));
}

template <class Compare>
IValue comparison(const Arguments& a, Compare compare) {
  if (whole(a[0]) && whole(a[1])) {
    return compare(integer(a[0]), integer(a[1]));
  }
  return compare(number(a[0]), number(a[1]));
}

double real_modulo(double a, double b) {
  const double rest = std::fmod(a, b);
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

template <Integer (*Round)(double)>
IValue rounded(const Arguments& a) {
  return whole(a[0]) ? IValue(integer(a[0])) : IValue(Round(number(a[0])));
}

Integer round_down(double value) {
  return to_integer(std::floor(value));
}
Integer round_up(double value) {
  return to_integer(std::ceil(value));
}
Integer round_to_zero(double value) {
  return to_integer(std::trunc(value));
}

IValue power_of(const Arguments& a) {
  if (whole(a[0]) && whole(a[1]) && integer(a[1]) >= 0) {
    return power(integer(a[0]), integer(a[1]));
  }
  return std::pow(number(a[0]), number(a[1]));
}

IValue true_divide(const Arguments& a) {
  if (number(a[1]) == 0) {
    fail("division by zero");
  }
  return number(a[0]) / number(a[1]);
}

IValue bitwise(const Arguments& a, bool both) {
  const Integer x = integer(a[0]);
  const Integer y = integer(a[1]);
  const Integer result = both ? (x & y) : (x | y);
  if (a[0].isBool() && a[1].isBool()) {
    return result != 0;
  }
  return result;
}

IValue chosen(const Arguments& a, bool first) {
  return first ? a[0] : a[1];
}

std::map<std::string, NumberOperator> make_table() {
  std::map<std::string, NumberOperator> table = {
      {"_operator.add",
       {2,
        [](const Arguments& a) {
          return arithmetic(a, add, std::plus<double>());
        }}},
      {"_operator.sub",
       {2,
        [](const Arguments& a) {
          return arithmetic(a, subtract, std::minus<double>());
        }}},
      {"_operator.mul",
       {2,
        [](const Arguments& a) {
          return arithmetic(a, multiply, std::multiplies<double>());
        }}},
      {"_operator.floordiv",
       {2,
        [](const Arguments& a) {
          return arithmetic(a, floor_divide, [](double x, double y) {
            return std::floor(x / y);
          });
        }}},
      {"_operator.mod",
       {2,
        [](const Arguments& a) { return arithmetic(a, modulo, real_modulo); }}},
      {"_operator.pow", {2, power_of}},
      {"_operator.truediv", {2, true_divide}},
      {"_operator.lshift",
       {2,
        [](const Arguments& a) -> IValue {
          return shifted_left(integer(a[0]), integer(a[1]));
        }}},
      {"_operator.rshift",
       {2,
        [](const Arguments& a) -> IValue {
          return shifted_right(integer(a[0]), integer(a[1]));
        }}},
      {"_operator.and_",
       {2, [](const Arguments& a) { return bitwise(a, true); }}},
      {"_operator.or_",
       {2, [](const Arguments& a) { return bitwise(a, false); }}},
      {"_operator.eq",
       {2,
        [](const Arguments& a) { return comparison(a, std::equal_to<>()); }}},
      {"_operator.ne",
       {2,
        [](const Arguments& a) {
          return comparison(a, std::not_equal_to<>());
        }}},
      {"_operator.lt",
       {2, [](const Arguments& a) { return comparison(a, std::less<>()); }}},
      {"_operator.le",
       {2,
        [](const Arguments& a) { return comparison(a, std::less_equal<>()); }}},
      {"_operator.gt",
       {2, [](const Arguments& a) { return comparison(a, std::greater<>()); }}},
      {"_operator.ge",
       {2,
        [](const Arguments& a) {
          return comparison(a, std::greater_equal<>());
        }}},
      {"_operator.neg",
       {1,
        [](const Arguments& a) -> IValue {
          return whole(a[0]) ? IValue(subtract(0, integer(a[0])))
                             : IValue(-number(a[0]));
        }}},
      {"_operator.pos", {1, [](const Arguments& a) { return a[0]; }}},
      {"math.trunc", {1, rounded<round_to_zero>}},
      {"math.floor", {1, rounded<round_down>}},
      {"math.ceil", {1, rounded<round_up>}},
      {"torch.sym_int", {1, rounded<round_to_zero>}},
      {"torch.sym_float",
       {1, [](const Arguments& a) -> IValue { return number(a[0]); }}},
      {"torch.sym_not",
       {1, [](const Arguments& a) -> IValue { return integer(a[0]) == 0; }}},
      {"torch.sym_sqrt",
       {1,
        [](const Arguments& a) -> IValue { return std::sqrt(number(a[0])); }}},
      {"torch.sym_ite",
       {3,
        [](const Arguments& a) { return integer(a[0]) != 0 ? a[1] : a[2]; }}},
      {"torch.sym_max",
       {2,
        [](const Arguments& a) {
          return chosen(a, comparison(a, std::greater_equal<>()).toBool());
        }}},
      {"torch.sym_min",
       {2,
        [](const Arguments& a) {
          return chosen(a, comparison(a, std::less_equal<>()).toBool());
        }}},
  };
  table["torch._sym_sqrt"] = table["torch.sym_sqrt"];
  return table;
}

}  // namespace

const NumberOperator* find_number_operator(const std::string& target) {
  static const auto table = make_table();
  const auto found = table.find(target);
  return found == table.end() ? nullptr : &found->second;
}

}  // namespace peft::graph
