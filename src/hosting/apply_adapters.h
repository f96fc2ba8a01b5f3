// SPDX-License-Identifier: Apache-2.0
// Runs an operator that reads an adapted weight: plainly on the base, and then
// each active adapter in order by its cheap form. Dropout acts on the input. A
// factor in another dtype than the input (float32 factors on a bfloat16 base)
// computes in its own dtype, and the sum is rounded once, as in PEFT.
//
// Everything keeps what the plain operator gave when an adapter changes
// nothing: y + (gain - 1) (y - bias) is y when the gain is one.
//
// In a mixed batch the plain operator runs once on all rows, and each adapter's
// steps on its own.
#pragma once

#include <optional>

#include <c10/util/FunctionRef.h>

#include "hosting/adapted_weight.h"

namespace peft::detail {

/// y = beta * bias + alpha * x W, W read as [outputs, inputs] by F::linear, as
/// [inputs, outputs] by matmul, mm, addmm. x [..., inputs], y [..., outputs].
struct LinearCall {
  /// Without a bias when it is undefined.
  using Run = c10::function_ref<at::Tensor(
      const at::Tensor& x,
      const at::Tensor& weight,
      const at::Tensor& bias)>;

  Run run;
  /// Its operator reads [positions, batch, inputs].
  bool positions_first = false;
  /// The model puts batch and positions into one dimension for it.
  bool flattened = false;
  double beta = 1;
  double alpha = 1;
};
/// `bias`, which may be adapted too, as for convolutions.
at::Tensor apply_adapters(
    const LinearCall& call,
    const WeightReading& weight,
    const std::optional<at::Tensor>& bias,
    const at::Tensor& x);

/// How one table lookup was asked for.
struct Lookup {
  std::int64_t padding_idx;
  bool scale_grad_by_freq;
  bool sparse;
};
/// y [indices..., dim]. No dropout, as in PEFT.
at::Tensor apply_adapters(
    const Lookup& lookup,
    const WeightReading& table,
    const at::Tensor& indices);

/// A convolution with its stride, padding and dilation bound.
struct Convolution {
  using Run = c10::function_ref<at::Tensor(
      const at::Tensor& x,
      const at::Tensor& weight,
      const std::optional<at::Tensor>& bias,
      std::int64_t groups)>;
  Run run;
  std::int64_t groups;
  std::int64_t inputs;  // channels
};
at::Tensor apply_adapters(
    const Convolution& convolution,
    const WeightReading& kernel,
    const std::optional<at::Tensor>& bias,
    const at::Tensor& x);

}  // namespace peft::detail
