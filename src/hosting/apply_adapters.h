// SPDX-License-Identifier: Apache-2.0
// Runs an operator that reads an adapted weight: plainly on the base, and then
// each active adapter in order by its cheap form. Dropout acts on the input. A
// factor in another dtype than the input (float32 factors on a bfloat16 base)
// computes in its own dtype, and the sum is rounded once, as in PEFT.
//
// Everything keeps what the plain operator gave when an adapter changes
// nothing: y + (gain - 1) (y - bias) is y when the gain is one.
#pragma once

#include <optional>

#include <c10/util/FunctionRef.h>

#include "hosting/adapted_weight.h"

namespace peft::detail {

/// y = beta * bias + alpha * x W for W [inputs, outputs]: F::linear, matmul, mm
/// and addmm. x [..., inputs], y [..., outputs].
struct LinearCall {
  using Run = c10::function_ref<at::Tensor(const at::Tensor& x)>;

  Run run;
  /// The same without the bias, in x's dtype.
  Run map;
  /// What `run` adds at the end; undefined: nothing.
  at::Tensor bias;
  double alpha = 1;
};
at::Tensor
apply_adapters(const LinearCall& call, const at::Tensor& x, const Steps& steps);

/// How one table lookup was asked for.
struct Lookup {
  std::int64_t padding_idx;
  bool scale_grad_by_freq;
  bool sparse;
};
/// y [indices..., dim]. No dropout, as in PEFT.
at::Tensor apply_adapters(
    const Lookup& lookup,
    const at::Tensor& table,
    const at::Tensor& indices,
    const Steps& steps);

/// A convolution with its stride, padding and dilation bound.
struct Convolution {
  using Run = c10::function_ref<at::Tensor(
      const at::Tensor& x,
      const at::Tensor& weight,
      const std::optional<at::Tensor>& bias,
      std::int64_t groups)>;
  Run run;
  std::optional<at::Tensor> bias;
  std::int64_t groups;
};
at::Tensor apply_adapters(
    const Convolution& convolution,
    const at::Tensor& kernel,
    const at::Tensor& x,
    const Steps& steps);

}  // namespace peft::detail
