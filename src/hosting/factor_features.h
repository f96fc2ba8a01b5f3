// SPDX-License-Identifier: Apache-2.0
// What a factor multiplies: a layer's input in the factor's dtype.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/dropout.h>

namespace peft::detail {

// False where this thread leaves dtypes to the model.
inline thread_local bool inputs_are_cast = true;

// Features as a factor wants them: in its dtype, and what dropout leaves of
// them. Autocast casts for itself.
inline at::Tensor
features_for(const at::Tensor& x, const at::Tensor& factor, double dropout) {
  const bool autocast = at::autocast::is_autocast_enabled(x.device().type());
  const at::Tensor cast =
      autocast || !inputs_are_cast ? x : x.to(factor.scalar_type());
  return dropout > 0 ? at::dropout(cast, dropout, true) : cast;
}
}  // namespace peft::detail
