// SPDX-License-Identifier: Apache-2.0
// Adapters on a stack of matrices (experts), run with their factors: on one of
// the matrices, or on all at once in a batched product.
#pragma once

#include <c10/util/FunctionRef.h>

#include "hosting/adapted_weight.h"

namespace peft::detail {

/// The steps of a stack of `count` matrices as those of matrix `index` alone.
/// False when one has no such form.
bool take_matrix(Steps& steps, std::int64_t index, std::int64_t count);

/// y = x W for W [count, inputs, outputs], as matmul has it: `run(x)` gives the
/// plain product. Every step is one that take_matrix knows.
at::Tensor multiply_stack(
    c10::function_ref<at::Tensor(const at::Tensor& x)> run,
    const at::Tensor& x,
    const Steps& steps,
    std::int64_t count);

/// Whether take_matrix knows them all.
bool are_low_rank(const Steps& steps);

}  // namespace peft::detail
