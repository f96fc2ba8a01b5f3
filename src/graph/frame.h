// SPDX-License-Identifier: Apache-2.0
// What one run of a graph works on, and what is read from and written to it.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

namespace peft::graph {

/// Where a value stands while a graph runs.
using Slot = std::uint32_t;
constexpr Slot no_slot = ~Slot{0};

/// The tensors that a program reads by number. An adapter library may put
/// others in their places between runs.
using Weights = std::vector<at::Tensor>;

/// One run's values; its own for every thread, run and called graph.
struct Frame {
  std::vector<c10::IValue> values;  // by slot
  const Weights& weights;
  bool training;
};

}  // namespace peft::graph
