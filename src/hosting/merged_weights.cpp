// SPDX-License-Identifier: Apache-2.0
#include "hosting/merged_weights.h"

namespace peft::detail {

void MergedWeights::add(const AdaptedWeight& weight, MergedWeight merged) {
  auto entry = std::make_unique<Entry>();
  entry->merged = std::move(merged);
  entry->base = TensorState(weight.base());
  entries_.emplace(weight.id(), std::move(entry));
}

std::optional<MergedWeight> MergedWeights::find(
    const AdaptedWeight& weight) const {
  const auto found = entries_.find(weight.id());
  if (found == entries_.end()) {
    return std::nullopt;
  }
  Entry& entry = *found->second;
  const std::lock_guard lock(entry.mutex);
  if (!entry.base.is_of(weight.base())) {
    entry.merged = weight.merged_with(adapters_);
    entry.base = TensorState(weight.base());
  }
  return entry.merged;
}

}  // namespace peft::detail
