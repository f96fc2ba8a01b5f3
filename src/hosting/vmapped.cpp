// SPDX-License-Identifier: Apache-2.0
#include "hosting/vmapped.h"

#include <ATen/functorch/BatchedTensorImpl.h>
#include <ATen/ops/movedim.h>

namespace peft::detail {

at::Tensor with_hidden_rows(const at::Tensor& x, std::int64_t features) {
  const auto* batched = at::functorch::maybeGetBatchedImpl(x);
  if (!batched) {
    return x;
  }
  const at::Tensor rows = at::movedim(batched->value(), batched->bdim(), 0);
  return with_hidden_rows(
      x.dim() > features ? rows.flatten(0, 1) : rows, features);
}

}  // namespace peft::detail
