// SPDX-License-Identifier: Apache-2.0
#include "graph/tree_spec.h"

#include <algorithm>

#include "base/text.h"
#include "graph/json_fields.h"
#include "peft/error.h"

namespace peft::graph {
namespace {

using c10::IValue;
using detail::concat;
using detail::join_path;

constexpr std::size_t deepest = 64;

std::string key_text(const Json& key) {
  return key.is_string() ? key.get<std::string>() : key.dump();
}

// The context of a dict is its keys; a dataclass's begins with its fields.
std::vector<std::string> read_keys(const Json& context, std::size_t count) {
  const Json* list = &context;
  if (list->is_array() && !list->empty() && list->front().is_array()) {
    list = &list->front();
  }
  std::vector<std::string> keys;
  if (list->is_array() && list->size() == count) {
    for (const Json& key : *list) {
      keys.push_back(key_text(key));
    }
  }
  return keys;
}

TreeSpec read(const Json& json, std::size_t depth) {
  if (depth > deepest) {
    throw BrokenJson("inputs or outputs are nested too deeply");
  }
  const Json* type = optional_field(json, "type");
  TreeSpec spec;
  if (!type) {
    return spec;
  }
  for (const Json& child : as_list(field(json, "children_spec"))) {
    spec.children.push_back(read(child, depth + 1));
  }
  const std::string& name = as_text(*type);
  spec.kind = name == "builtins.list" || name == "collections.deque"
      ? TreeSpec::Kind::list
      : TreeSpec::Kind::tuple;
  const Json* text = optional_field(json, "context");
  const bool sequence = name == "builtins.tuple" ||
      name == "collections.namedtuple" || spec.kind == TreeSpec::Kind::list;
  if (text && text->is_string() && !sequence) {
    const Json context = Json::parse(as_text(*text), nullptr, false);
    spec.keys = read_keys(context, spec.children.size());
    spec.integer_keys = context.is_array() && !context.empty() &&
        std::all_of(context.begin(), context.end(), [](const Json& key) {
                          return key.is_number_integer();
                        });
    if (spec.keys.size() == spec.children.size()) {
      spec.kind = TreeSpec::Kind::dict;
    }
  }
  return spec;
}

const char* kind_name(TreeSpec::Kind kind) {
  switch (kind) {
    case TreeSpec::Kind::leaf:
      return "one value";
    case TreeSpec::Kind::tuple:
      return "a tuple";
    case TreeSpec::Kind::list:
      return "a list";
    case TreeSpec::Kind::dict:
      return "a dict";
  }
  return "";
}

[[noreturn]] void
unlike(const std::string& name, const IValue& value, const TreeSpec& spec) {
  throw Error(
      ErrorKind::input,
      concat(
          "input '",
          name,
          "' is ",
          kind_name(spec.kind),
          " of ",
          spec.children.size(),
          " in the program, but a ",
          value.tagKind(),
          " is given"));
}

std::vector<IValue> sequence_of(const IValue& value) {
  if (value.isTuple()) {
    const auto& elements = value.toTupleRef().elements();
    return std::vector<IValue>(elements.begin(), elements.end());
  }
  if (value.isList()) {
    return value.toListRef().vec();
  }
  return {};
}

}  // namespace

TreeSpec TreeSpec::parse(const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_array() || json.size() != 2) {
    throw BrokenJson("the description of nested values is malformed");
  }
  if (const auto protocol = as_integer(json[0]); protocol != 1) {
    throw BrokenJson(
        concat("nested values are described by protocol ", protocol));
  }
  return read(json[1], 0);
}

IValue TreeSpec::key(std::size_t child) const {
  return integer_keys ? IValue(std::int64_t{std::stoll(keys[child])})
                      : IValue(keys[child]);
}

std::size_t TreeSpec::leaf_count() const {
  if (kind == Kind::leaf) {
    return 1;
  }
  std::size_t count = 0;
  for (const TreeSpec& child : children) {
    count += child.leaf_count();
  }
  return count;
}

void TreeSpec::leaf_names(
    const std::string& prefix,
    std::vector<std::string>& names) const {
  if (kind == Kind::leaf) {
    names.push_back(prefix);
    return;
  }
  for (std::size_t i = 0; i < children.size(); ++i) {
    children[i].leaf_names(
        join_path(prefix, kind == Kind::dict ? keys[i] : std::to_string(i)),
        names);
  }
}

void TreeSpec::flatten(
    const IValue& value,
    const std::string& name,
    std::vector<IValue>& leaves) const {
  if (kind == Kind::leaf) {
    leaves.push_back(value);
    return;
  }
  if (kind != Kind::dict) {
    const auto items = sequence_of(value);
    if (items.size() != children.size()) {
      unlike(name, value, *this);
    }
    for (std::size_t i = 0; i < items.size(); ++i) {
      children[i].flatten(items[i], concat(name, ".", i), leaves);
    }
    return;
  }
  if (!value.isGenericDict()) {
    unlike(name, value, *this);
  }
  const auto dict = value.toGenericDict();
  for (std::size_t i = 0; i < children.size(); ++i) {
    const auto found = dict.find(key(i));
    if (found == dict.end() || dict.size() != children.size()) {
      throw Error(
          ErrorKind::input,
          concat(
              "input '",
              name,
              "' needs exactly the keys ",
              detail::list_names(keys),
              "; '",
              keys[i],
              "' is missing, or "
              "others are given"));
    }
    children[i].flatten(found->value(), join_path(name, keys[i]), leaves);
  }
}

IValue TreeSpec::unflatten(std::vector<IValue>::iterator& next) const {
  switch (kind) {
    case Kind::leaf:
      return std::move(*next++);
    case Kind::dict: {
      c10::impl::GenericDict dict(
          integer_keys ? c10::TypePtr(c10::IntType::get())
                       : c10::TypePtr(c10::StringType::get()),
          c10::AnyType::get());
      for (std::size_t i = 0; i < children.size(); ++i) {
        dict.insert(key(i), children[i].unflatten(next));
      }
      return dict;
    }
    case Kind::list: {
      c10::impl::GenericList list(c10::AnyType::get());
      for (const TreeSpec& child : children) {
        list.push_back(child.unflatten(next));
      }
      return list;
    }
    case Kind::tuple: {
      std::vector<IValue> items;
      for (const TreeSpec& child : children) {
        items.push_back(child.unflatten(next));
      }
      return c10::ivalue::Tuple::create(std::move(items));
    }
  }
  return {};
}

}  // namespace peft::graph
