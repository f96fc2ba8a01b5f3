// SPDX-License-Identifier: Apache-2.0
// Weights with adapters merged in, beside their untouched bases.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "hosting/adapted_weight.h"
#include "methods/tensor_state.h"

namespace peft::detail {

class MergedWeights {
 public:
  explicit MergedWeights(AttachedAdapters adapters)
      : adapters_(std::move(adapters)) {}

  const AttachedAdapters& adapters() const { return adapters_; }

  /// Before any other thread reads.
  void add(const AdaptedWeight& weight, MergedWeight merged);
  /// The merged weight; made anew when the base has changed since, moved or
  /// been cast. Nothing for a weight without such an adapter.
  std::optional<MergedWeight> find(const AdaptedWeight& weight) const;

 private:
  struct Entry {
    std::mutex mutex;
    MergedWeight merged;
    TensorState base;
  };

  const AttachedAdapters adapters_;
  std::unordered_map<WeightId, std::unique_ptr<Entry>> entries_;
};

}  // namespace peft::detail
