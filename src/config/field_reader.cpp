// SPDX-License-Identifier: Apache-2.0
// Fields of one value, nested configs, and what no field took. Lists, patterns
// and choices are in field_reader_lists.cpp.
#include "config/field_reader.h"

#include "base/text.h"
#include "config/json_type.h"

namespace peft::detail {

const Json* FieldReader::find(const char* name) {
  const auto found = object_.find(name);
  if (found == object_.end()) {
    return nullptr;
  }
  read_.insert(name);
  return &*found;
}

// As find, but null counts as absent: both mean the default.
const Json* FieldReader::find_given(const char* name) {
  const Json* found = find(name);
  return found && found->is_null() ? nullptr : found;
}

void FieldReader::wrong(
    const std::string& name,
    const Json& found,
    const char* expected) {
  mistakes_.add(
      ErrorKind::config,
      concat(
          path_,
          name,
          ": found ",
          describe_json(found),
          ", expected ",
          expected));
}

void FieldReader::keep_unknown(UnknownFields& kept) {
  for (const auto& [name, value] : object_.items()) {
    if (!read_.contains(name)) {
      kept.emplace_back(name, JsonText{value.dump()});
      unknown_.push_back(path_ + name);
    }
  }
}

template <class Value>
bool FieldReader::read_one(
    const char* name,
    Value& value,
    const char* expected) {
  const Json* found = find_given(name);
  if (!found) {
    return false;
  }
  if (!JsonType<Value>::fits(*found)) {
    wrong(name, *found, expected);
    return false;
  }
  value = found->get<Value>();
  return true;
}

template <class Value>
void FieldReader::read_optional(
    const char* name,
    std::optional<Value>& value,
    const char* expected) {
  Value one{};
  if (read_one(name, one, expected)) {
    value = std::move(one);
  }
}

void FieldReader::field(const char* name, bool& value) {
  read_one(name, value, JsonType<bool>::name);
}

void FieldReader::field(const char* name, std::int64_t& value) {
  read_one(name, value, JsonType<std::int64_t>::name);
}

void FieldReader::field(const char* name, double& value) {
  read_one(name, value, JsonType<double>::name);
}

void FieldReader::field(const char* name, std::optional<std::int64_t>& value) {
  read_optional(name, value, "an integer or null");
}

void FieldReader::field(const char* name, std::string& value) {
  read_one(name, value, JsonType<std::string>::name);
}

void FieldReader::field(const char* name, std::optional<std::string>& value) {
  read_optional(name, value, "a string or null");
}

void FieldReader::field(const char* name, InitChoice& value) {
  const Json* found = find(name);
  if (!found) {
    return;
  }
  if (found->is_null()) {
    value = InitChoice(false);  // PEFT skips its initialisation, as for false
  } else if (found->is_boolean()) {
    value = InitChoice(found->get<bool>());
  } else if (found->is_string() && *found != "") {
    value = InitChoice(found->get<std::string>());
  } else {
    wrong(name, *found, "true, false or the name of a scheme");
  }
}

void FieldReader::field(const char* name, JsonText& value) {
  if (const Json* found = find(name)) {
    value.text = found->dump();
  }
}

void FieldReader::visit_nested(
    const char* name,
    bool /*is_given*/,
    const VisitFields& visit) {
  const Json* found = find_given(name);
  if (!found) {
    return;
  }
  if (!found->is_object()) {
    return wrong(name, *found, "an object or null");
  }
  FieldReader inner(*found, mistakes_, concat(path_, name, "."));
  inner.keep_unknown(visit(inner));
  unknown_.insert(unknown_.end(), inner.unknown_.begin(), inner.unknown_.end());
}

}  // namespace peft::detail
