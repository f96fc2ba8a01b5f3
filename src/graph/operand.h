// SPDX-License-Identifier: Apache-2.0
// One argument of an instruction: a constant, a value, a weight, or a list of
// these, already of the type that the operator takes.
#pragma once

#include <vector>

#include <ATen/core/jit_type.h>

#include "graph/frame.h"

namespace peft::graph {

struct Operand {
  enum class Kind { constant, slot, weight, list };

  Kind kind = Kind::constant;
  c10::IValue constant;
  std::uint32_t index = 0;     // the slot, or the weight's number
  bool last_use = false;       // of a slot: the value is taken out of the frame
  bool as_tensor = false;      // a number, where the operator takes a tensor
  bool as_double = false;      // an integer, where it takes a float
  bool is_dtype = false;       // of a constant: its number is a dtype's
  std::vector<Operand> items;  // of a list
  c10::TypePtr item_type;      // of a list: what it is a list of

  static Operand of_constant(c10::IValue value);
  static Operand of_slot(Slot slot);
  static Operand of_weight(std::uint32_t number);
  static Operand of_list(std::vector<Operand> items, c10::TypePtr item_type);

  /// The constant that it is, or nullptr.
  const c10::IValue* if_constant() const {
    return kind == Kind::constant ? &constant : nullptr;
  }
  /// The value in `frame`.
  c10::IValue evaluate(Frame& frame) const;
  /// Calls `see` for each operand that reads a slot, list items too.
  template <class See>
  void visit_slots(const See& see) {
    if (kind == Kind::slot) {
      see(*this);
    }
    for (auto item = items.rbegin(); item != items.rend(); ++item) {
      item->visit_slots(see);
    }
  }
  /// Calls `see` for each constant, list items too.
  template <class See>
  void visit_constants(const See& see) {
    if (kind == Kind::constant) {
      see(*this);
    }
    for (Operand& item : items) {
      item.visit_constants(see);
    }
  }
};

/// `value`, which must be a number, as the tensor that Python makes of a number
/// beside a tensor: it does not take part in type promotion.
c10::IValue wrapped_number(const c10::IValue& value);

/// A list of `items` whose type the operator takes: c10::List<at::Tensor> and
/// so on.
c10::IValue make_list(
    std::vector<c10::IValue> items,
    const c10::TypePtr& item_type);

}  // namespace peft::graph
