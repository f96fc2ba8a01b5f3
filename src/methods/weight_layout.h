// SPDX-License-Identifier: Apache-2.0
// How a weight is read as a linear map: all that a method may know of the
// layer it serves.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace peft::detail {

/// float32, float64, bfloat16, float16: what a weight with adapters can be.
bool is_adaptable_dtype(at::ScalarType dtype);

struct WeightLayout {
  enum class Form {
    matrix,  // [outputs, inputs], or [inputs, outputs] when inputs_first
    table,   // [inputs, outputs]: one row looked up per index
    kernel,  // [outputs, inputs / groups, window...]
    stack,   // count matrices: [count, outputs, inputs], or inputs_first
    whole,   // any tensor, read as it is (a bias, a running mean)
  };

  Form form = Form::whole;
  std::int64_t outputs = 0;
  std::int64_t inputs = 0;
  std::vector<std::int64_t> window = {};
  std::int64_t groups = 1;
  std::int64_t count = 1;
  bool inputs_first = false;
  /// Its operator reads [positions, batch, features], as an attention of
  /// libtorch does.
  bool positions_first = false;
  /// No operator is known that reads it, so nothing can act on its input.
  bool without_operator = false;
  /// The layer adds a bias of its own, which methods may change.
  bool has_bias = false;

  static WeightLayout matrix(const at::Tensor& w, bool inputs_first = false);
  static WeightLayout table(const at::Tensor& weight);
  static WeightLayout kernel(const at::Tensor& weight, std::int64_t groups);
  /// 2-D: a matrix; 3-D: a stack; anything else: whole.
  static WeightLayout bare(const at::Tensor& weight);

  /// "a 4x8 matrix", for messages.
  std::string describe() const;
};

}  // namespace peft::detail
