// SPDX-License-Identifier: Apache-2.0
#include "graph/scope.h"

#include "base/text.h"
#include "graph/serialized_enums.h"

namespace peft::graph {
namespace {

using c10::IValue;
using c10::TypeKind;
using c10::TypePtr;
using detail::concat;
using Operands = std::vector<Operand>;

TypePtr without_optional(const TypePtr& type) {
  const auto optional = type ? type->cast<c10::OptionalType>() : nullptr;
  return optional ? optional->getElementType() : type;
}

bool is(const TypePtr& type, TypeKind kind) {
  return type && type->kind() == kind;
}

TypePtr item_type_of(const TypePtr& type) {
  const auto list = type ? type->cast<c10::ListType>() : nullptr;
  return list ? list->getElementType() : nullptr;
}

// Makes `operand`, a number, what an operator of type `expected` takes.
Operand fitted(Operand operand, const TypePtr& expected) {
  const bool number = operand.kind == Operand::Kind::slot ||
      (operand.kind == Operand::Kind::constant && operand.constant.isScalar());
  if (!number) {
    return operand;
  }
  if (is(expected, TypeKind::TensorType)) {
    operand.as_tensor = true;
  } else if (is(expected, TypeKind::FloatType)) {
    operand.as_double = true;
  } else if (const TypePtr item = item_type_of(expected)) {
    return Operand::of_list({fitted(std::move(operand), item)}, item);
  }
  if (operand.kind != Operand::Kind::constant) {
    return operand;
  }
  if (operand.as_tensor) {
    operand.constant = wrapped_number(operand.constant);
  } else if (operand.as_double && operand.constant.isInt()) {
    operand.constant = static_cast<double>(operand.constant.toInt());
  }
  return operand;
}

// A list of constants is a constant.
Operand folded(Operands items, const TypePtr& item_type) {
  std::vector<IValue> constants;
  for (const Operand& item : items) {
    if (item.kind != Operand::Kind::constant) {
      return Operand::of_list(std::move(items), item_type);
    }
    constants.push_back(item.constant);
  }
  return Operand::of_constant(make_list(std::move(constants), item_type));
}

class ArgumentReader {
 public:
  explicit ArgumentReader(const Scope& scope) : scope_(scope) {}

  Operand read(const Json& json, const TypePtr& optional_type) {
    const auto [tag, value] = as_union(json);
    const TypePtr type = without_optional(optional_type);
    if (tag == "as_none") {
      return Operand::of_constant({});
    }
    if (tag == "as_tensor" || tag == "as_custom_obj") {
      return named(field(*value, "name"));
    }
    if (tag == "as_optional_tensor") {
      return read(*value, type);
    }
    if (tag.starts_with("as_sym_") && !tag.ends_with("s")) {
      return fitted(symbolic(*value), type);
    }
    if (const auto item = list_item_type(tag)) {
      return read_list(tag, *value, *item, type);
    }
    Operand operand = Operand::of_constant(constant(tag, *value));
    operand.is_dtype = tag == "as_scalar_type";
    return fitted(std::move(operand), type);
  }

 private:
  Operand named(const Json& name) const {
    return scope_.get(as_text(name)).operand;
  }

  // {"as_name": ...} or {"as_int": ...}
  Operand symbolic(const Json& json) const {
    const auto [tag, value] = as_union(json);
    return tag == "as_name" ? named(*value)
                            : Operand::of_constant(constant(tag, *value));
  }

  // What the items of a list kind are, when nobody says what is taken.
  static std::optional<TypePtr> list_item_type(const std::string& tag) {
    using namespace c10;
    static const std::unordered_map<std::string, TypePtr> types = {
        {"as_tensors", TensorType::get()},
        {"as_optional_tensors", OptionalType::create(TensorType::get())},
        {"as_ints", IntType::get()},
        {"as_sym_ints", IntType::get()},
        {"as_floats", FloatType::get()},
        {"as_sym_floats", FloatType::get()},
        {"as_bools", BoolType::get()},
        {"as_sym_bools", BoolType::get()},
        {"as_strings", StringType::get()},
        {"as_nested_tensors", ListType::create(TensorType::get())},
        {"as_int_lists", ListType::create(IntType::get())},
        {"as_float_lists", ListType::create(FloatType::get())}};
    const auto found = types.find(tag);
    return found == types.end() ? std::nullopt : std::optional(found->second);
  }

  Operand read_list(
      const std::string& tag,
      const Json& list,
      const TypePtr& own_item_type,
      const TypePtr& expected) {
    const TypePtr taken = item_type_of(expected);
    const TypePtr item_type = taken ? taken : own_item_type;
    Operands items;
    for (const Json& item : as_list(list)) {
      items.push_back(
          fitted(read_item(tag, item), without_optional(item_type)));
    }
    return folded(std::move(items), item_type);
  }

  Operand read_item(const std::string& tag, const Json& item) {
    if (tag == "as_tensors") {
      return named(field(item, "name"));
    }
    if (tag == "as_optional_tensors") {
      return read(item, nullptr);
    }
    if (tag.starts_with("as_sym_")) {
      return symbolic(item);
    }
    if (tag == "as_nested_tensors") {
      return read_list("as_tensors", item, c10::TensorType::get(), nullptr);
    }
    if (tag == "as_int_lists") {
      return read_list("as_ints", item, c10::IntType::get(), nullptr);
    }
    if (tag == "as_float_lists") {
      return read_list("as_floats", item, c10::FloatType::get(), nullptr);
    }
    // "as_ints" holds what "as_int" does.
    return Operand::of_constant(constant(tag.substr(0, tag.size() - 1), item));
  }

  static IValue constant(const std::string& tag, const Json& value) {
    if (tag == "as_int") {
      return as_integer(value);
    }
    if (tag == "as_float") {
      return as_number(value);
    }
    if (tag == "as_bool") {
      return as_flag(value);
    }
    if (tag == "as_string") {
      return as_text(value);
    }
    if (tag == "as_complex") {
      return c10::complex<double>(
          as_number(field(value, "real")), as_number(field(value, "imag")));
    }
    if (tag == "as_scalar_type") {
      return known(to_scalar_type(as_integer(value)), "dtype", value);
    }
    if (tag == "as_layout") {
      return known(to_layout(as_integer(value)), "layout", value);
    }
    if (tag == "as_memory_format") {
      return known(to_memory_format(as_integer(value)), "memory format", value);
    }
    if (tag == "as_device") {
      return read_device(value);
    }
    throw BrokenJson(
        concat("an argument of kind '", tag, "' is not known here"));
  }

  template <class Enum>
  static IValue
  known(std::optional<Enum> value, const char* what, const Json& json) {
    if (!value) {
      throw BrokenJson(concat(what, " ", shortened(json), " is not known"));
    }
    return IValue(static_cast<std::int64_t>(*value));
  }

  const Scope& scope_;
};

}  // namespace

void Scope::define(const std::string& name, Value value) {
  if (!values_.emplace(name, std::move(value)).second) {
    throw BrokenJson(concat("value '", name, "' is defined twice"));
  }
}

const Value& Scope::get(const std::string& name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) {
    throw BrokenJson(concat("value '", name, "' is read before it is defined"));
  }
  return found->second;
}

Operand read_argument(
    const Json& json,
    const c10::TypePtr& expected,
    const Scope& scope) {
  return ArgumentReader(scope).read(json, expected);
}

std::vector<Value> read_values(const Json& json, const Scope& scope) {
  const auto [tag, value] = as_union(json);
  if (tag == "as_tensor") {
    return {scope.get(as_text(field(*value, "name")))};
  }
  if (tag == "as_tensors") {
    std::vector<Value> values;
    for (const Json& item : as_list(*value)) {
      values.push_back(scope.get(as_text(field(item, "name"))));
    }
    return values;
  }
  Operand operand = read_argument(json, nullptr, scope);
  if (operand.kind == Operand::Kind::list) {
    std::vector<Value> values;
    for (Operand& item : operand.items) {
      values.push_back({std::move(item), {}});
    }
    return values;
  }
  if (operand.constant.isList()) {
    std::vector<Value> values;
    for (const c10::IValue& item : operand.constant.toListRef()) {
      values.push_back({Operand::of_constant(item), {}});
    }
    return values;
  }
  return {{std::move(operand), {}}};
}

std::string defined_name(const Json& json) {
  const auto [tag, value] = as_union(json);
  if (tag == "as_tensor" || tag == "as_custom_obj") {
    return as_text(field(*value, "name"));
  }
  if (tag == "as_optional_tensor") {
    return defined_name(*value);
  }
  if (tag.starts_with("as_sym_") && !tag.ends_with("s")) {
    const Json* name = optional_field(*value, "as_name");
    return name ? as_text(*name) : "";
  }
  return "";
}

}  // namespace peft::graph
