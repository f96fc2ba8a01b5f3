// SPDX-License-Identifier: Apache-2.0
// JSON as adapter_config.json needs it: strict reading that keeps the order of
// keys (rank_pattern depends on it), and writing with Python's spelling.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "peft/adapter_config.h"
#include "peft/error.h"

namespace peft::detail {

using Json = nlohmann::ordered_json;

/// Parses all of `text`. Throws Error of `kind`, naming `origin` and the line,
/// for anything that is not JSON (NaN and Infinity, which Python writes, are
/// not), for a key that one object has twice, and for absurd nesting.
Json parse_json(
    const std::string& text,
    const std::string& origin,
    ErrorKind kind);

/// json.dumps(value, indent=2, sort_keys=True).
std::string python_json(const Json& value);

/// What a value is, for messages: "\"8\" (a string)".
std::string describe_json(const Json& value);

/// True when `json` is not JSON text at all.
bool is_broken(const JsonText& json);

/// Python's bool() of the value: false for null, false, 0, "", [] and {}.
/// A text that is not JSON counts as false.
bool is_truthy(const JsonText& json);

/// Adds a mistake for each that is_broken; `path` stands before the name of
/// the field unknown_fields: "eva_config.".
void check_unknown_fields(
    const std::string& path,
    const UnknownFields& fields,
    Mistakes& mistakes);

}  // namespace peft::detail
