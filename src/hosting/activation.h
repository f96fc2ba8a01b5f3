// SPDX-License-Identifier: Apache-2.0
// Which adapters are on: one immutable set per model, replaced by one store,
// so that switching never walks the model and a forward sees one choice.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace peft::detail {

/// A value that readers take whole while another thread replaces it.
template <class Value>
class Snapshot {
 public:
  explicit Snapshot(Value value)
      : value_(std::make_shared<const Value>(std::move(value))) {}

  std::shared_ptr<const Value> load() const { return value_.load(); }
  void store(Value value) {
    value_.store(std::make_shared<const Value>(std::move(value)));
  }

 private:
  std::atomic<std::shared_ptr<const Value>> value_;
};

/// An adapter within its model; ids are never used again.
using AdapterId = std::uint32_t;

struct ActiveSet {
  bool enabled = true;
  std::vector<AdapterId> ids;  // in the order they apply
};

using Activation = Snapshot<ActiveSet>;

}  // namespace peft::detail
