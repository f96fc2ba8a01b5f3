// SPDX-License-Identifier: Apache-2.0
// Every operator without a kernel of its own, when it meets adapted tensors.
//
// - an argument the operator writes to becomes the base weight, as far as that
//   is what the operator means: see in_place_write.h;
// - a view of an adapted tensor becomes an adapted view, read and written
//   later through the same view of the weight;
// - in every other place the effective weight stands, differentiable.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

namespace peft::detail {

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack);

/// t(): what every linear layer does to its weight on every forward.
at::Tensor transpose_matrix(const at::Tensor& weight);

}  // namespace peft::detail
