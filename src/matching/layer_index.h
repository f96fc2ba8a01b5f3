// SPDX-License-Identifier: Apache-2.0
// layers_to_transform: the index of the layer that a module belongs to, by
// PEFT's rules.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "matching/name_pattern.h"

namespace peft::detail {

/// Chooses modules by the index in their path.
class LayerFilter {
 public:
  /// Takes every module.
  LayerFilter() = default;
  /// Takes the layers in `indexes` (empty: all). The index is the number after
  /// the first of `patterns` that hits; without patterns the first number that
  /// is a whole part of the path, has a part after it and two before it, or
  /// else (not in PEFT) is the second part of the path. Throws Error (config)
  /// for a pattern that is no valid regex.
  LayerFilter(
      std::vector<std::int64_t> indexes,
      const std::vector<std::string>& patterns);

  bool is_on() const { return !indexes_.empty(); }
  std::optional<std::int64_t> index_of(const std::string& path) const;
  bool takes(std::int64_t index) const;
  /// The index of a container at the root, where PEFT's default rule takes
  /// another, deeper one: 1 for "layers.1.experts.0.w".
  std::optional<std::int64_t> overlooked_index(const std::string& path) const;

 private:
  std::vector<std::int64_t> indexes_;
  std::vector<NamePattern> patterns_;
};

}  // namespace peft::detail
