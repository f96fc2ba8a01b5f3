// SPDX-License-Identifier: Apache-2.0
// The explicit list of methods. A new method adds one line to the .cpp.
#pragma once

#include <memory>
#include <string>

#include "methods/method.h"
#include "peft/adapter_config.h"

namespace peft::detail {

/// Shapes of one weight's stored tensors, by file name: "lora_A.weight".
using StoredShapes =
    std::vector<std::pair<std::string, std::vector<std::int64_t>>>;

struct MethodEntry {
  std::string peft_type;
  /// The method as `config` sets it for the module at `path` (patterns apply).
  std::unique_ptr<const Method> (
      *make)(const AdapterConfig& config, const std::string& path);
  /// Changes `config` so that the module at `path` gets the shapes that a file
  /// holds, where they differ (a rank pattern whose order JSON lost).
  void (*fit)(
      AdapterConfig& config,
      const std::string& path,
      const WeightLayout& layout,
      const StoredShapes& shapes);
  /// `config` as it is to be written: with the same meaning for the adapted
  /// modules at `paths` after JSON has sorted the keys of its patterns.
  void (*settle)(AdapterConfig& config, const std::vector<std::string>& paths);
};

/// Throws Error (unsupported) when config's peft_type is not in the list.
const MethodEntry& method_entry(const AdapterConfig& config);

}  // namespace peft::detail
