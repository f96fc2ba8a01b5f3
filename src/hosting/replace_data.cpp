// SPDX-License-Identifier: Apache-2.0
#include "hosting/replace_data.h"

namespace peft::detail {

void replace_data(const at::Tensor& tensor, const at::Tensor& data) {
  const at::Tensor plain = data.detach();
  if (tensor.is_meta() != plain.is_meta()) {
    // set_data refuses this; what it does beside the copy, it does below.
    tensor.unsafeGetTensorImpl()->shallow_copy_from(plain.getIntrusivePtr());
  }
  at::Tensor(tensor).set_data(plain);
}

}  // namespace peft::detail
