// SPDX-License-Identifier: Apache-2.0
// The fields of field_reader.h that hold several values or a choice.
#include "base/text.h"
#include "config/field_reader.h"
#include "config/json_type.h"

namespace peft::detail {

template <class Value>
bool FieldReader::read_list(
    const std::string& name,
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

template <class Value>
void FieldReader::read_lists(
    const char* name,
    const Json& lists,
    const char* expected,
    Patterns<std::vector<Value>>& into) {
  for (const auto& [key, item] : lists.items()) {
    std::vector<Value> values;
    const std::string where = concat(name, "[\"", key, "\"]");
    if (!item.is_array()) {
      wrong(where, item, expected);
    } else if (read_list(where, item, values)) {
      into.emplace_back(key, std::move(values));
    }
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

void FieldReader::field(
    const char* name,
    std::optional<std::vector<std::int64_t>>& value) {
  const Json* found = find_given(name);
  if (!found) {
    return;
  }
  std::vector<std::int64_t> values;
  if (!found->is_array()) {
    wrong(name, *found, "a list of integers or null");
  } else if (read_list(name, *found, values)) {
    value = std::move(values);
  }
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
  read_lists(name, *found, "a list of true or false", value);
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

void FieldReader::field(const char* name, TokenChoice& value) {
  const Json* found = find_given(name);
  if (!found) {
    return;
  }
  TokenChoice::Tokens tokens;
  Patterns<TokenChoice::Tokens> by_layer;
  if (found->is_object()) {
    read_lists(name, *found, "a list of token ids", by_layer);
    value = std::move(by_layer);
  } else if (!found->is_array()) {
    wrong(
        name,
        *found,
        "a list of token ids, an object of layers and such lists, or null");
  } else if (read_list(name, *found, tokens)) {
    value = std::move(tokens);
  }
}

}  // namespace peft::detail
