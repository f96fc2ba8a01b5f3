// SPDX-License-Identifier: Apache-2.0
// The writing half of json_text.h: the bytes of Python's json module.
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <vector>

#include "base/text.h"
#include "config/json_text.h"

namespace peft::detail {
namespace {

// repr(float): the shortest digits that read back as the same number, in
// fixed notation when the decimal exponent is from -4 to 15.
std::string python_float(double value) {
  char buffer[32];
  const auto [end, error] = std::to_chars(
      buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  const std::string text(buffer, end);
  const std::size_t e = text.find('e');
  if (e == std::string::npos) {
    return text;
  }
  const int exponent = std::atoi(text.c_str() + e + 1);
  if (exponent < -4 || exponent >= 16) {
    return text;  // to_chars writes the exponent as Python does: 1e-05
  }
  const bool negative = text[0] == '-';
  std::string digits = text.substr(negative ? 1 : 0, e - (negative ? 1 : 0));
  std::erase(digits, '.');
  if (exponent < 0) {
    digits = "0." + std::string(-exponent - 1, '0') + digits;
  } else {
    const std::size_t whole = static_cast<std::size_t>(exponent) + 1;
    digits.append(whole >= digits.size() ? whole + 1 - digits.size() : 0, '0');
    digits.insert(whole, ".");
  }
  return (negative ? "-" : "") + digits;
}

class PythonWriter {
 public:
  std::string text;

  void write(const Json& value, std::size_t indent) {
    if (value.is_object()) {
      write_object(value, indent);
    } else if (value.is_array()) {
      write_list(value, indent);
    } else if (value.is_number_float()) {
      text += python_float(value.get<double>());
    } else {
      text += value.dump(-1, ' ', /*ensure_ascii=*/true);
    }
  }

 private:
  void new_line(std::size_t indent) {
    text += '\n';
    text.append(indent, ' ');
  }

  void write_object(const Json& object, std::size_t indent) {
    if (object.empty()) {
      text += "{}";
      return;
    }
    std::vector<std::pair<std::string, const Json*>> members;
    for (const auto& [key, value] : object.items()) {
      members.emplace_back(key, &value);
    }
    std::sort(members.begin(), members.end());
    char before = '{';
    for (const auto& [key, value] : members) {
      text += before;
      before = ',';
      new_line(indent + 2);
      text += Json(key).dump(-1, ' ', /*ensure_ascii=*/true) + ": ";
      write(*value, indent + 2);
    }
    new_line(indent);
    text += '}';
  }

  void write_list(const Json& list, std::size_t indent) {
    if (list.empty()) {
      text += "[]";
      return;
    }
    char before = '[';
    for (const auto& value : list) {
      text += before;
      before = ',';
      new_line(indent + 2);
      write(value, indent + 2);
    }
    new_line(indent);
    text += ']';
  }
};

const char* type_in_words(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return "an integer";
    case Json::value_t::number_float:
      return "a number with a fraction";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::array:
      return "a list";
    default:
      return "an object";
  }
}

}  // namespace

std::string python_json(const Json& value) {
  PythonWriter writer;
  writer.write(value, 0);
  return std::move(writer.text);
}

std::string describe_json(const Json& value) {
  constexpr std::size_t most = 60;
  std::string text = value.is_number_float()
      ? python_float(value.get<double>())
      : value.dump(-1, ' ', /*ensure_ascii=*/true);
  if (text.size() > most) {
    text = text.substr(0, most) + "...";
  }
  return concat(text, " (", type_in_words(value), ")");
}

}  // namespace peft::detail
