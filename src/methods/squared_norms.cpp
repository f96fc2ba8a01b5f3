// SPDX-License-Identifier: Apache-2.0
#include "methods/squared_norms.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include "methods/low_rank_factors.h"

namespace peft::detail {
namespace {

at::Tensor squared_norms(const at::Tensor& weight, const WeightLayout& layout) {
  const at::NoGradGuard no_grad;
  const at::Tensor rows = exact(as_matrix(weight, layout));
  return rows.mul(rows).sum(1);
}

}  // namespace

at::ScalarType exact_dtype(at::ScalarType dtype) {
  return dtype == at::kHalf || dtype == at::kBFloat16 ? at::kFloat : dtype;
}

at::Tensor exact(const at::Tensor& tensor) {
  return tensor.to(exact_dtype(tensor.scalar_type()));
}

at::Tensor SquaredNorms::of(
    const at::Tensor& weight,
    const WeightLayout& layout) const {
  if (weight.is_inference()) {  // does not count its changes
    return squared_norms(weight, layout);
  }
  const std::lock_guard lock(mutex_);
  if (!state_.is_of(weight)) {
    // Made in inference mode, they could not be used in training.
    const c10::InferenceMode for_all(false);
    norms_ = squared_norms(weight, layout);
    state_ = TensorState(weight);
  }
  return norms_;
}

}  // namespace peft::detail
