// SPDX-License-Identifier: Apache-2.0
#include "graph/json_fields.h"

#include <limits>

#include "base/text.h"

namespace peft::graph {
namespace {

using detail::concat;

[[noreturn]] void unlike(const Json& value, const char* wanted) {
  throw BrokenJson(
      concat(shortened(value), " stands where ", wanted, " is expected"));
}

}  // namespace

std::string shortened(const Json& value) {
  constexpr std::size_t most = 60;
  if (value.is_object() || value.is_array()) {
    return concat(
        value.is_object() ? "an object" : "a list", " of ", value.size());
  }
  // Strings need not be UTF-8.
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > most) {
    text = text.substr(0, most) + "...";
  }
  return text;
}

const Json* optional_field(const Json& object, const char* name) {
  const auto found = as_object(object).find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

const Json& field(const Json& object, const char* name) {
  if (const Json* found = optional_field(object, name)) {
    return *found;
  }
  throw BrokenJson(concat("'", name, "' is missing"));
}

const std::string& as_text(const Json& value) {
  if (!value.is_string()) {
    unlike(value, "a string");
  }
  return value.get_ref<const std::string&>();
}

std::int64_t as_integer(const Json& value) {
  constexpr auto most = std::numeric_limits<std::int64_t>::max();
  if (!value.is_number_integer() ||
      (value.is_number_unsigned() &&
       value.get<std::uint64_t>() > static_cast<std::uint64_t>(most))) {
    unlike(value, "a 64-bit integer");
  }
  return value.get<std::int64_t>();
}

double as_number(const Json& value) {
  if (value.is_number()) {
    return value.get<double>();
  }
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    constexpr double infinity = std::numeric_limits<double>::infinity();
    if (text == "Infinity") {
      return infinity;
    }
    if (text == "-Infinity") {
      return -infinity;
    }
    if (text == "NaN") {
      return std::numeric_limits<double>::quiet_NaN();
    }
  }
  unlike(value, "a number");
}

bool as_flag(const Json& value) {
  if (!value.is_boolean()) {
    unlike(value, "true or false");
  }
  return value.get<bool>();
}

const Json& as_list(const Json& value) {
  if (!value.is_array()) {
    unlike(value, "a list");
  }
  return value;
}

const Json& as_object(const Json& value) {
  if (!value.is_object()) {
    unlike(value, "an object");
  }
  return value;
}

std::pair<std::string, const Json*> as_union(const Json& value) {
  if (as_object(value).size() != 1) {
    unlike(value, "an object with one member");
  }
  return {value.begin().key(), &value.begin().value()};
}

}  // namespace peft::graph
