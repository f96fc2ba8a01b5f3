// SPDX-License-Identifier: Apache-2.0
// The one place where a low-rank product meets a plain operator: the base
// operator's result `y` goes in, and comes out with scale * B A x added for
// each term. Dropout acts on x. A factor in another dtype than x (float32
// factors on a bfloat16 base) computes in its own dtype and the sum is rounded
// once to y's, as in PEFT.
#pragma once

#include <functional>

#include "hosting/adapted_weight.h"

namespace peft::detail {

/// y [..., outputs], x [..., inputs].
at::Tensor
add_linear(at::Tensor y, const at::Tensor& x, const LowRankTerms& terms);

/// How one table lookup was asked for.
struct Lookup {
  std::int64_t padding_idx;
  bool scale_grad_by_freq;
  bool sparse;
};

/// y [indices..., dim]. No dropout, as in PEFT.
at::Tensor add_embedding(
    at::Tensor y,
    const at::Tensor& indices,
    const LowRankTerms& terms,
    const Lookup& lookup);

/// `convolve(x, A)` runs the base's convolution (stride, padding, dilation)
/// with one group and no bias; B is applied as a 1x1 convolution in `groups`.
at::Tensor add_convolution(
    at::Tensor y,
    const at::Tensor& x,
    const LowRankTerms& terms,
    std::int64_t groups,
    const std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>&
        convolve);

}  // namespace peft::detail
