// SPDX-License-Identifier: Apache-2.0
// Whether a tensor of one dtype can take another's values.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace peft::detail {

/// Whether a tensor of `dtype` can hold `values` as they are. Between floating
/// dtypes values are rounded, which counts as holding them.
bool holds_values(at::ScalarType dtype, const at::Tensor& values);

/// "given long int, whose values float cannot hold exactly", for messages.
std::string cannot_hold(at::ScalarType dtype, const at::Tensor& values);

}  // namespace peft::detail
