// SPDX-License-Identifier: Apache-2.0
// ||W||^2 by output of a weight that seldom changes, computed once for each
// value it has. DoRA divides by such norms on every forward.
#pragma once

#include <mutex>

#include <ATen/core/Tensor.h>

#include "methods/tensor_state.h"
#include "methods/weight_layout.h"

namespace peft::detail {

/// May be shared by threads. Notices the changes that TensorState does.
class SquaredNorms {
 public:
  /// [outputs], float32 or better, without gradient.
  at::Tensor of(const at::Tensor& weight, const WeightLayout& layout) const;

 private:
  mutable std::mutex mutex_;
  mutable at::Tensor norms_;
  mutable TensorState state_;
};

/// float32 for half precision, else as it is.
at::ScalarType exact_dtype(at::ScalarType dtype);
at::Tensor exact(const at::Tensor& tensor);

}  // namespace peft::detail
