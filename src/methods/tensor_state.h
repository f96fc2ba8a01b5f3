// SPDX-License-Identifier: Apache-2.0
// Whether a tensor still has the values it had.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace peft::detail {

/// Notices every change that libtorch counts: a new storage, dtype or device,
/// and in-place operations; not writes through data_ptr() or data(), and none
/// at all in place on a tensor made in inference mode.
class TensorState {
 public:
  TensorState() = default;
  explicit TensorState(const at::Tensor& tensor);
  bool is_of(const at::Tensor& tensor) const;

 private:
  using WeakStorage = c10::weak_intrusive_ptr<c10::StorageImpl>;

  std::optional<WeakStorage> storage_;
  std::uint32_t version_ = 0;
  std::optional<at::ScalarType> dtype_;
};

}  // namespace peft::detail
