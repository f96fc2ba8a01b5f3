// SPDX-License-Identifier: Apache-2.0
// Tensors inside torch.vmap, which an exported program may run: functorch hides
// one of their dimensions, and with it who is in which row.
#pragma once

#include <ATen/core/Tensor.h>

namespace peft::detail {

inline bool is_vmapped(const at::Tensor& x) {
  return x.key_set().has(c10::DispatchKey::FuncTorchBatched);
}

/// `x` with the hidden dimensions among its rows: before the last `features`
/// dimensions. Any other tensor as it is.
at::Tensor with_hidden_rows(const at::Tensor& x, std::int64_t features);

}  // namespace peft::detail
