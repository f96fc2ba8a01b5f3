// SPDX-License-Identifier: Apache-2.0
// The methods of the property matrix, each with its formula written again on
// plain tensors: the oracle. Nothing here comes from the library but configs.
#pragma once

#include "matrix/layer_cases.h"
#include "peft/peft.h"

namespace peft_test {

/// What a layer computes with.
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
      const LayerCase& layer,
      const Weights& now,
      const Weights& base,
      const std::vector<Tensor>& parameters,
      double scale)>
      apply;
  std::function<bool(const LayerCase& layer)> fits;
  /// It keeps a part of the weight, rounded to the dtype it had.
  bool rounds_the_weight = false;
};

void PrintTo(const MethodCase& method, std::ostream* out);

std::vector<MethodCase> method_cases();

}  // namespace peft_test
