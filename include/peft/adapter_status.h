// SPDX-License-Identifier: Apache-2.0
// What stands where: PEFT's layer and model status.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "peft/export.h"

namespace peft {

/// Whether an adapter's tensors require grad: "true", "false", or "irregular"
/// when they disagree.
using RequiresGrad = std::map<std::string, std::string>;

struct PEFT_API LayerStatus {
  std::string name;         ///< "encoder.0.query"
  std::string module_type;  ///< "Linear"
  bool enabled = true;
  std::vector<std::string> active_adapters;
  std::vector<std::string> merged_adapters;
  std::vector<std::string> available_adapters;
  RequiresGrad requires_grad;
  std::map<std::string, std::string> devices;
};

struct PEFT_API ModelStatus {
  std::string base_model_type;
  std::map<std::string, std::string> peft_types;  ///< by adapter
  std::int64_t trainable_parameters = 0;
  /// The model's own and every adapter's.
  std::int64_t total_parameters = 0;
  std::int64_t adapter_layers = 0;
  bool enabled = true;
  std::vector<std::string> active_adapters;
  std::vector<std::string> merged_adapters;
  std::vector<std::string> available_adapters;
  RequiresGrad requires_grad;

  /// "trainable params: 76,038 || all params: 22,643,724 || trainable%: 0.3358"
  std::string to_string() const;
};

}  // namespace peft
