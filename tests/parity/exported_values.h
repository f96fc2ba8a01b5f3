// SPDX-License-Identifier: Apache-2.0
// Arguments and results of ExportedProgram::call as JSON, {"tensor": 0}
// standing for a tensor by its number.
#pragma once

#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "peft/safetensors.h"

namespace peft_parity {

using c10::IValue;
using nlohmann::json;

/// `tensors` has them under "0", "1", ...
inline IValue to_value(const json& j, const peft::StateDict& tensors) {
  if (j.is_null()) {
    return {};
  }
  if (j.is_boolean()) {
    return j.get<bool>();
  }
  if (j.is_number_integer()) {
    return j.get<std::int64_t>();
  }
  if (j.is_number()) {
    return j.get<double>();
  }
  if (j.is_string()) {
    return j.get<std::string>();
  }
  if (j.is_array()) {
    std::vector<IValue> items;
    for (const auto& item : j) {
      items.push_back(to_value(item, tensors));
    }
    return c10::ivalue::Tuple::create(std::move(items));
  }
  if (j.contains("tensor")) {
    return tensors[std::to_string(j["tensor"].get<int>())];
  }
  c10::impl::GenericDict dict(c10::StringType::get(), c10::AnyType::get());
  for (const auto& [key, item] : j.items()) {
    dict.insert(key, to_value(item, tensors));
  }
  return dict;
}

/// Tensors are appended to `found`.
inline json to_json(const IValue& value, std::vector<torch::Tensor>& found) {
  const auto all = [&](c10::ArrayRef<IValue> values) {
    auto items = json::array();
    for (const auto& item : values) {
      items.push_back(to_json(item, found));
    }
    return items;
  };
  if (value.isTensor()) {
    found.push_back(value.toTensor());
    return json::object({{"tensor", found.size() - 1}});
  }
  if (value.isTuple()) {
    return all(value.toTupleRef().elements());
  }
  if (value.isList()) {
    const auto items = value.toListRef().vec();
    return all(items);
  }
  if (value.isGenericDict()) {
    auto items = json::object();
    for (const auto& entry : value.toGenericDict()) {
      items[entry.key().toStringRef()] = to_json(entry.value(), found);
    }
    return items;
  }
  if (value.isNone()) {
    return nullptr;
  }
  if (value.isBool()) {
    return value.toBool();
  }
  if (value.isInt()) {
    return value.toInt();
  }
  if (value.isDouble()) {
    return value.toDouble();
  }
  return value.toStringRef();
}

}  // namespace peft_parity
