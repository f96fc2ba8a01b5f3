// SPDX-License-Identifier: Apache-2.0
// Layers of models that came from Python, as exported programs or TorchScript:
// what is known of them is names, tensors and how each tensor is used.
#pragma once

#include <string>
#include <vector>

#include "hosting/layer_kinds.h"

namespace peft::detail {

struct ForeignMember {
  std::string name;
  at::Tensor* tensor;
  WeightUse use = WeightUse::any;
  std::int64_t groups = 1;
  /// False: no adapters, but modules_to_save may train it whole.
  bool takes_adapters = true;
};

/// `kind` is the Python class: "Linear", "MultiheadAttention", ...
KnownLayer know_foreign_layer(
    const std::string& kind,
    const std::vector<ForeignMember>& members);

}  // namespace peft::detail
