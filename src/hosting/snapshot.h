// SPDX-License-Identifier: Apache-2.0
// A value that readers take whole while another thread replaces it.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

namespace peft::detail {

// A mutex around one pointer: libstdc++'s atomic<shared_ptr> is a lock too, and
// before GCC 13 one whose readers race with the next store.
template <class Value>
class Snapshot {
 public:
  explicit Snapshot(Value value)
      : value_(std::make_shared<const Value>(std::move(value))) {}

  std::shared_ptr<const Value> load() const {
    const std::lock_guard lock(mutex_);
    return value_;
  }

  void store(Value value) {
    auto next = std::make_shared<const Value>(std::move(value));
    const std::lock_guard lock(mutex_);
    value_.swap(next);  // the old one may be freed after the lock
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const Value> value_;
};

}  // namespace peft::detail
