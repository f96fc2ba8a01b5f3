// SPDX-License-Identifier: Apache-2.0
// The methods of the property matrix, each with its formula written again on
// plain tensors: the oracle. Nothing here comes from the library but configs.
#pragma once

#include "matrix/layer_cases.h"
#include "peft/peft.h"

namespace peft_test {

/// What one weight of a layer and its bias are. A kernel in groups stands here
/// as the kernel of one group that does the same.
struct Weights {
  Tensor weight;
  Tensor bias;  // undefined: none
};

struct MethodCase {
  std::string name;
  std::function<std::unique_ptr<peft::AdapterConfig>()> config;
  /// `now`, which earlier adapters have made of `base`, as this adapter makes
  /// it. `parameters` in the order of Adapters::parameters, `scale` the user's.
  std::function<Weights(
      const WeightCase& of,
      const Weights& now,
      const Weights& base,
      const std::vector<Tensor>& parameters,
      double scale)>
      apply;
  /// Whether the method has a form for the weight.
  std::function<bool(const WeightCase& of)> fits;
  /// It keeps a part of the weight, rounded to the dtype it had.
  bool rounds_the_weight = false;
  /// On a kernel in groups it reads all inputs, and has no effective weight of
  /// the kernel's own shape.
  bool mixes_groups = false;
};

/// A kernel in groups as one of a single group, and back.
Tensor in_one_group(const Tensor& kernel, int64_t groups);
Tensor in_groups(const Tensor& kernel, int64_t groups);

void PrintTo(const MethodCase& method, std::ostream* out);

std::vector<MethodCase> method_cases();

}  // namespace peft_test
