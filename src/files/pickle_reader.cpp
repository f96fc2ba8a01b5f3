// SPDX-License-Identifier: Apache-2.0
#include "files/pickle_reader.h"

#include <algorithm>
#include <set>

#include "base/mistakes.h"
#include "base/text.h"
#include "files/pickle_machine.h"

namespace peft::detail {
namespace {

using Kind = PickleValue::Kind;
using Items = std::vector<const PickleValue*>;

constexpr std::string_view torch_name = "torch.";

// What a dict of tensors and parameters is made of.
bool is_known_global(const std::string& name) {
  static const std::set<std::string> known = {
      "collections.OrderedDict",
      "torch._utils._rebuild_parameter",
      "torch._utils._rebuild_parameter_with_state",
      "torch._utils._rebuild_tensor",
      "torch._utils._rebuild_tensor_v2",
      "torch._utils._rebuild_tensor_v3",
      "torch.storage.UntypedStorage"};
  // torch.FloatStorage, torch.float8_e4m3fn: names of dtypes, which are told
  // apart where tensors are made.
  const bool is_dtype = name.starts_with(torch_name) &&
      name.find('.', torch_name.size()) == std::string::npos &&
      (name.ends_with("Storage") || name.starts_with("torch.float") ||
       name.starts_with("torch.uint") || name.starts_with("torch.int") ||
       name.starts_with("torch.bfloat"));
  return is_dtype || known.contains(name);
}

// Sizes or strides; no tensor has more dimensions.
bool are_sizes(const PickleValue& value) {
  constexpr std::size_t most = 64;
  return value.kind == Kind::tuple && value.items.size() <= most &&
      std::all_of(value.items.begin(), value.items.end(), [](const auto* item) {
           return item->kind == Kind::integer;
         });
}

// A tensor's storage, offset, sizes and strides, and its dtype where the
// storage does not tell.
PickleValue rebuilt_tensor(
    const std::string& global,
    const PickleValue& arguments,
    const PickleMachine& machine) {
  const Items& items = arguments.items;
  const bool with_dtype = global.ends_with("_v3");
  const std::size_t own = with_dtype ? 7 : global.ends_with("_v2") ? 6 : 4;
  const bool fits = items.size() >= own && items[0]->kind == Kind::storage &&
      items[1]->kind == Kind::integer && are_sizes(*items[2]) &&
      are_sizes(*items[3]) && (!with_dtype || items[6]->kind == Kind::global);
  if (!fits) {
    machine.refuse("its pickle describes a tensor as torch.save does not");
  }
  if (items.size() > own && !items[own]->items.empty()) {
    machine.refuse(
        "a tensor is saved as the conjugate or the negative of another; save "
        "it again after resolve_conj().resolve_neg()");
  }
  PickleValue tensor{.kind = Kind::tensor};
  tensor.items.assign(items.begin(), items.begin() + 4);
  if (with_dtype) {
    tensor.items.push_back(items[6]);
  }
  return tensor;
}

PickleValue called(
    const std::string& global,
    const PickleValue& arguments,
    const PickleMachine& machine) {
  const Items& items = arguments.items;
  if (global == "collections.OrderedDict" && items.empty()) {
    return {.kind = Kind::dict};
  }
  if (global.starts_with("torch._utils._rebuild_tensor")) {
    return rebuilt_tensor(global, arguments, machine);
  }
  const bool is_parameter =
      global.starts_with("torch._utils._rebuild_parameter");
  if (is_parameter && !items.empty() && items[0]->kind == Kind::tensor) {
    return *items[0];
  }
  machine.refuse(
      concat("its pickle calls '", global, "' as torch.save does not"));
}

std::vector<std::int64_t> integers(const PickleValue& tuple) {
  std::vector<std::int64_t> values;
  for (const PickleValue* item : tuple.items) {
    values.push_back(item->integer);
  }
  return values;
}

PickledTensor described(const std::string& name, const PickleValue& tensor) {
  const Items& storage = tensor.items[0]->items;
  const bool with_dtype = tensor.items.size() > 4;
  const std::string type =
      with_dtype ? tensor.items[4]->text : storage[1]->text;
  return {
      .name = name,
      .dtype = type.substr(type.rfind('.') + 1),
      .storage = storage[2]->text,
      .length = storage[4]->integer,
      .in_bytes = storage[1]->text.ends_with("UntypedStorage"),
      .offset = tensor.items[1]->integer,
      .sizes = integers(*tensor.items[2]),
      .strides = integers(*tensor.items[3])};
}

const char* kind_of(const PickleValue& value) {
  switch (value.kind) {
    case Kind::dict:
      return "a dict";
    case Kind::list:
      return "a list";
    case Kind::tuple:
      return "a tuple";
    case Kind::text:
      return "a string";
    case Kind::none:
      return "None";
    case Kind::tensor:
      return "a tensor";
    case Kind::boolean:
    case Kind::integer:
    case Kind::number:
      return "a number";
    default:
      return "no tensor";
  }
}

}  // namespace

std::vector<PickledTensor> read_pickled_tensors(
    std::string_view pickle,
    const std::string& origin) {
  const PickleMachine* self = nullptr;
  PickleMachine machine(
      pickle,
      origin,
      is_known_global,
      [&self](const std::string& global, const PickleValue& arguments) {
        return called(global, arguments, *self);
      });
  self = &machine;
  const PickleValue& dict = machine.run();
  if (dict.kind != Kind::dict) {
    machine.refuse(concat(
        "it holds ", kind_of(dict), ", and not a dict of tensors by name"));
  }
  Mistakes mistakes(ErrorKind::file, origin);
  std::set<std::string> seen;
  std::vector<PickledTensor> tensors;
  for (std::size_t i = 0; i < dict.items.size(); i += 2) {
    const PickleValue& key = *dict.items[i];
    const PickleValue& value = *dict.items[i + 1];
    if (key.kind != Kind::text) {
      mistakes.add(
          concat("a key of its dict is ", kind_of(key), ", no string"));
    } else if (value.kind != Kind::tensor) {
      mistakes.add(
          concat("'", key.text, "' is ", kind_of(value), ", and not a tensor"));
    } else if (!seen.insert(key.text).second) {
      mistakes.add(concat("'", key.text, "' is in its dict twice"));
    } else {
      tensors.push_back(described(key.text, value));
    }
  }
  mistakes.raise_if_any();
  return tensors;
}

}  // namespace peft::detail
