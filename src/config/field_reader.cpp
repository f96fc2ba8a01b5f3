// SPDX-License-Identifier: Apache-2.0
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
      concat(name, ": found ", describe_json(found), ", expected ", expected));
}

template <class Value>
void FieldReader::read_one(
    const char* name,
    Value& value,
    const char* expected) {
  const Json* found = find_given(name);
  if (!found) {
    return;
  }
  if (!JsonType<Value>::fits(*found)) {
    return wrong(name, *found, expected);
  }
  value = found->get<Value>();
}

template <class Value>
bool FieldReader::read_list(
    const char* name,
    const Json& list,
    std::vector<Value>& into) {
  std::vector<Value> values;
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (!JsonType<Value>::fits(list[i])) {
      wrong(concat(name, "[", i, "]"), list[i], JsonType<Value>::name);
      return false;
    }
    values.push_back(list[i].get<Value>());
  }
  into = std::move(values);
  return true;
}

template <class Value>
void FieldReader::read_patterns(const char* name, Patterns<Value>& value) {
  const Json* found = find_given(name);
  if (!found) {
    return;
  }
  if (!found->is_object()) {
    return wrong(name, *found, "an object of patterns and numbers");
  }
  value.clear();
  for (const auto& [key, item] : found->items()) {
    if (JsonType<Value>::fits(item)) {
      value.emplace_back(key, item.template get<Value>());
    } else {
      wrong(concat(name, "[\"", key, "\"]"), item, JsonType<Value>::name);
    }
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
  std::int64_t number = 0;
  if (find_given(name)) {
    read_one(name, number, "an integer or null");
    value = number;
  }
}

void FieldReader::field(const char* name, std::string& value) {
  read_one(name, value, JsonType<std::string>::name);
}

void FieldReader::field(const char* name, std::optional<std::string>& value) {
  std::string text;
  if (find_given(name)) {
    read_one(name, text, "a string or null");
    value = text;
  }
}

void FieldReader::field(const char* name, std::vector<std::string>& value) {
  const Json* found = find_given(name);
  if (!found) {
    return;
  }
  if (!found->is_array()) {
    return wrong(name, *found, "a list of strings");
  }
  read_list(name, *found, value);
}

template <class Value>
void FieldReader::read_one_or_many(
    const char* name,
    OneOrMany<Value>& value,
    const char* expected) {
  const Json* found = find_given(name);
  if (!found) {
    return;
  }
  std::vector<Value> values;
  if (JsonType<Value>::fits(*found)) {
    value = found->get<Value>();
  } else if (!found->is_array()) {
    wrong(name, *found, expected);
  } else if (read_list(name, *found, values)) {
    value = std::move(values);
  }
}

void FieldReader::field(const char* name, OneOrMany<std::string>& value) {
  read_one_or_many(name, value, "a string or a list of strings");
  if (value.is_one() && value.begin()->empty()) {
    value = {};  // "" is no pattern in PEFT
  }
}

void FieldReader::field(const char* name, OneOrMany<std::int64_t>& value) {
  read_one_or_many(name, value, "an integer or a list of integers");
}

void FieldReader::field(const char* name, Patterns<std::int64_t>& value) {
  read_patterns(name, value);
}

void FieldReader::field(const char* name, Patterns<double>& value) {
  read_patterns(name, value);
}

void FieldReader::field(const char* name, Patterns<std::vector<bool>>& value) {
  const Json* found = find_given(name);
  if (!found) {
    return;
  }
  if (!found->is_object()) {
    return wrong(name, *found, "an object of names and lists of true or false");
  }
  value.clear();
  for (const auto& [key, item] : found->items()) {
    std::vector<bool> flags;
    const std::string where = concat(name, "[\"", key, "\"]");
    if (!item.is_array()) {
      wrong(where, item, "a list of true or false");
    } else if (read_list(where.c_str(), item, flags)) {
      value.emplace_back(key, std::move(flags));
    }
  }
}

void FieldReader::field(const char* name, ModuleChoice& value) {
  const Json* found = find_given(name);
  if (!found) {
    return;
  }
  std::vector<std::string> names;
  if (found->is_string()) {
    value = ModuleChoice(found->get<std::string>());
  } else if (!found->is_array()) {
    wrong(name, *found, "a list of strings, a string or null");
  } else if (read_list(name, *found, names)) {
    value = ModuleChoice(std::move(names));
  }
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

}  // namespace peft::detail
