// SPDX-License-Identifier: Apache-2.0
// DoRA: W' = (m / n) (W + s B A), one magnitude m for each output and
// n = ||W0 + s B A|| over what that output reads, taken as a constant in
// backward. https://arxiv.org/abs/2402.09353
//
// Key: lora_magnitude_vector, [out]; of a kernel [1, out, 1...].
//
// n^2 = ||W0||^2 + 2 s <W0, B A> + s^2 ||B A||^2, each from products with r
// columns: no temporary of the weight's size. With several adapters each n is
// of the plain weight W0, while W is what the adapters before it made, as in
// PEFT: their order counts.
#pragma once

#include <memory>

#include "methods/method.h"

namespace peft::detail {

/// `lora`, whose first two parameters are A and B, with magnitudes.
std::unique_ptr<const Method> with_magnitudes(
    std::unique_ptr<const Method> lora);

}  // namespace peft::detail
