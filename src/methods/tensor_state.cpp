// SPDX-License-Identifier: Apache-2.0
#include "methods/tensor_state.h"

namespace peft::detail {
namespace {

std::uint32_t version_of(const at::Tensor& tensor) {
  return tensor.is_inference() ? 0
                               : static_cast<std::uint32_t>(tensor._version());
}

}  // namespace

TensorState::TensorState(const at::Tensor& tensor)
    : storage_(tensor.storage().getWeakStorageImpl()),
      version_(version_of(tensor)),
      dtype_(tensor.scalar_type()) {}

bool TensorState::is_of(const at::Tensor& tensor) const {
  // The weak pointer keeps the address from being used for another.
  return storage_ &&
      storage_->_unsafe_get_target() ==
      tensor.storage().unsafeGetStorageImpl() &&
      version_ == version_of(tensor) && dtype_ == tensor.scalar_type();
}

}  // namespace peft::detail
