// SPDX-License-Identifier: Apache-2.0
// Reading a .pt2's JSON without believing it: each function throws
// BrokenJson, which says what stood where.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

namespace peft::graph {

using Json = nlohmann::json;

struct BrokenJson : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The member `name` of an object.
const Json& field(const Json& object, const char* name);
/// The same, or nullptr when it is missing or null.
const Json* optional_field(const Json& object, const char* name);

const std::string& as_text(const Json& value);
std::int64_t as_integer(const Json& value);
/// Numbers, and the strings "Infinity", "-Infinity" and "NaN".
double as_number(const Json& value);
bool as_flag(const Json& value);
/// `value` itself, checked to be a list or an object.
const Json& as_list(const Json& value);
const Json& as_object(const Json& value);

/// A union {"as_tensor": value}: its one tag with the value.
std::pair<std::string, const Json*> as_union(const Json& value);

/// The beginning of a value's text, for messages.
std::string shortened(const Json& value);

}  // namespace peft::graph
