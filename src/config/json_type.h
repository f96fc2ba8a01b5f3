// SPDX-License-Identifier: Apache-2.0
// Which JSON value can become which C++ value, and what to call it in
// messages. Stricter than nlohmann's get(): nothing is converted on the way.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "config/json_text.h"

namespace peft::detail {

template <class Value>
struct JsonType;

template <>
struct JsonType<std::int64_t> {
  static constexpr const char* name = "an integer";
  static bool fits(const Json& json) {  // true is no integer here
    constexpr std::uint64_t most = std::numeric_limits<std::int64_t>::max();
    return json.is_number_integer() &&
        !(json.is_number_unsigned() && json.get<std::uint64_t>() > most);
  }
};

template <>
struct JsonType<double> {
  static constexpr const char* name = "a number";
  static bool fits(const Json& json) { return json.is_number(); }
};

template <>
struct JsonType<std::string> {
  static constexpr const char* name = "a string";
  static bool fits(const Json& json) { return json.is_string(); }
};

template <>
struct JsonType<bool> {
  static constexpr const char* name = "true or false";
  static bool fits(const Json& json) { return json.is_boolean(); }
};

}  // namespace peft::detail
