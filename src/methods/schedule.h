// SPDX-License-Identifier: Apache-2.0
// What a method does between the steps of training, over all weights of one
// adapter at once: AdaLoRA moves rank from one to another.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "methods/method.h"

namespace peft::detail {

struct ScheduledWeight {
  std::string file_prefix;
  Tensors parameters;  // in the order of the method's specs
  /// Whether a forward has read the weight with the adapter on it.
  std::function<bool()> has_run;
};

class Schedule {
 public:
  virtual ~Schedule() = default;

  /// After optimizer.step() and before zero_grad(); steps count from 0. Throws
  /// Error (state) when gradients are needed and not there.
  virtual void after_step(std::int64_t step) = 0;
  /// What to add to the loss.
  virtual at::Tensor regularization() const = 0;
  /// All that training needs to go on where it stopped: copies.
  virtual NamedTensors state() const = 0;
  /// Takes such a state back. Throws Error (shape), changing nothing, when it
  /// is not one of this adapter.
  virtual void load(const NamedTensors& state) = 0;
};

}  // namespace peft::detail
