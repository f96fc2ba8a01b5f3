// SPDX-License-Identifier: Apache-2.0
#include "hosting/weight_mask.h"

#include <ATen/ops/where.h>

namespace peft::detail {

at::Tensor WeightMask::zeroed() const {
  if (!is_set_.load(std::memory_order_acquire)) {
    return {};
  }
  const std::lock_guard lock(mutex_);
  return zeroed_;
}

void WeightMask::set_zeroed(at::Tensor zeroed) {
  const std::lock_guard lock(mutex_);
  zeroed_ = std::move(zeroed);
  is_set_.store(zeroed_.defined(), std::memory_order_release);
}

void WeightMask::written_anew(Fresh how) {
  set_zeroed({});
  fresh_.store(how, std::memory_order_relaxed);
}

at::Tensor WeightMask::apply(const at::Tensor& weight, const at::Tensor& ground)
    const {
  const at::Tensor places = zeroed();
  return places.defined()
      ? at::where(
            places.to(weight.device()), ground.to(weight.scalar_type()), weight)
      : weight;
}

}  // namespace peft::detail
