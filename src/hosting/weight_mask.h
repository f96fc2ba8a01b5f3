// SPDX-License-Identifier: Apache-2.0
// Zeros that were written into a part of a weight: a mask, such as a causal
// convolution puts on its kernel in every forward. It holds for the weight as
// adapters make it too.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include <ATen/core/Tensor.h>

namespace peft::detail {

class WeightMask {
 public:
  /// What was last written to the weight as a whole since it was last read. An
  /// initialiser begins so, and what it writes next is no mask.
  enum class Fresh { no, given, drawn };

  /// Bool of the weight's shape, true where zeros were written; undefined:
  /// nowhere. Not to be written to.
  at::Tensor zeroed() const;
  void set_zeroed(at::Tensor zeroed);

  Fresh fresh() const { return fresh_.load(std::memory_order_relaxed); }
  void written_anew(Fresh how);
  void was_read() {
    if (fresh() != Fresh::no) {
      fresh_.store(Fresh::no, std::memory_order_relaxed);
    }
  }

  /// `weight` with `ground`'s values where zeros were written, differentiable.
  at::Tensor apply(const at::Tensor& weight, const at::Tensor& ground) const;

 private:
  mutable std::mutex mutex_;
  at::Tensor zeroed_;
  std::atomic<bool> is_set_ = false;  // spares readers the lock
  std::atomic<Fresh> fresh_ = Fresh::no;
};

}  // namespace peft::detail
