// SPDX-License-Identifier: Apache-2.0
// Python's arithmetic on sizes: _operator.add, math.trunc, torch.sym_max and
// the rest, on integers, floats and truth values, with Python's rounding.
//
// Source: _SYM_OPS in torch/_export/serde/serialize.py; the Python language
// reference, "Binary arithmetic operations".
#pragma once

#include <string>
#include <vector>

#include <ATen/core/ivalue.h>

namespace peft::graph {

struct NumberOperator {
  std::size_t arity;
  c10::IValue (*run)(const std::vector<c10::IValue>& arguments);
};

/// The operator of a node target ("_operator.add"), or nullptr. run() throws
/// Error (program) when an integer leaves 64 bits, on division by zero, and for
/// anything but numbers.
const NumberOperator* find_number_operator(const std::string& target);

}  // namespace peft::graph
