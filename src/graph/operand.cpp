// SPDX-License-Identifier: Apache-2.0
#include "graph/operand.h"

#include <ATen/ScalarOps.h>

namespace peft::graph {
namespace {

c10::IValue as_double_value(c10::IValue value) {
  return value.isInt() ? c10::IValue(static_cast<double>(value.toInt()))
                       : value;
}

}  // namespace

Operand Operand::of_constant(c10::IValue value) {
  Operand operand;
  operand.constant = std::move(value);
  return operand;
}

Operand Operand::of_slot(Slot slot) {
  Operand operand;
  operand.kind = Kind::slot;
  operand.index = slot;
  return operand;
}

Operand Operand::of_weight(std::uint32_t number) {
  Operand operand;
  operand.kind = Kind::weight;
  operand.index = number;
  return operand;
}

Operand Operand::of_list(std::vector<Operand> items, c10::TypePtr item_type) {
  Operand operand;
  operand.kind = Kind::list;
  operand.items = std::move(items);
  operand.item_type = std::move(item_type);
  return operand;
}

c10::IValue Operand::evaluate(Frame& frame) const {
  switch (kind) {
    case Kind::constant:
      return constant;
    case Kind::weight:
      return frame.weights[index];
    case Kind::slot: {
      c10::IValue& place = frame.values[index];
      c10::IValue value = last_use ? std::move(place) : place;
      if (as_tensor) {
        return wrapped_number(value);
      }
      return as_double ? as_double_value(std::move(value)) : value;
    }
    case Kind::list: {
      std::vector<c10::IValue> values;
      values.reserve(items.size());
      for (const Operand& item : items) {
        values.push_back(item.evaluate(frame));
      }
      return make_list(std::move(values), item_type);
    }
  }
  return {};
}

c10::IValue wrapped_number(const c10::IValue& value) {
  if (value.isTensor()) {
    return value;
  }
  at::Tensor tensor = c10::scalar_to_tensor(value.toScalar());
  tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
  return tensor;
}

c10::IValue make_list(
    std::vector<c10::IValue> items,
    const c10::TypePtr& item_type) {
  c10::List<c10::IValue> list = c10::impl::GenericList(item_type);
  list.reserve(items.size());
  for (c10::IValue& item : items) {
    list.push_back(std::move(item));
  }
  return list;
}

}  // namespace peft::graph
