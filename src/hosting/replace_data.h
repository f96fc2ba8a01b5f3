// SPDX-License-Identifier: Apache-2.0
// Tensor::set_data that also goes from the meta device to another and back:
// the same tensor object, for modules and optimisers that hold it.
#pragma once

#include <ATen/core/Tensor.h>

namespace peft::detail {

/// `tensor` gets the data, dtype and device of `data`, which it shares.
void replace_data(const at::Tensor& tensor, const at::Tensor& data);

}  // namespace peft::detail
