// SPDX-License-Identifier: Apache-2.0
// A pair of low-rank factors by the layout of the weight they stand on:
//
// layout   A                       B                           PEFT keys
// matrix   [r, in]                 [out, r]                    lora_A.weight
// kernel   [r, in, window]         [out, r / groups, 1...]     lora_B.weight
// stack    [r count, in]           [out, r count], rank-major  (the same)
// table    [r, rows]               [dim, r]                    lora_embedding_A
//
// A kernel's A reads all input channels even when the base has groups, so a
// grouped kernel has no effective weight of its own shape (as in PEFT).
#pragma once

#include <ATen/core/Tensor.h>

#include "methods/weight_layout.h"

namespace peft::detail {

struct FactorShapes {
  std::vector<std::int64_t> A;
  std::vector<std::int64_t> B;
};

FactorShapes factor_shapes(const WeightLayout& layout, std::int64_t rank);

/// B A in the weight's own shape. Half precision is multiplied in float32, and
/// the result stays so. Throws Error (unsupported) for a grouped kernel.
at::Tensor multiply_factors(
    const at::Tensor& A,
    const at::Tensor& B,
    const WeightLayout& layout);

/// A weight as [outputs, everything it reads]: a view. Not for stacks.
at::Tensor as_matrix(const at::Tensor& weight, const WeightLayout& layout);

/// [outputs] shaped to multiply a weight of this layout. Not for stacks.
at::Tensor over_outputs(const at::Tensor& vector, const WeightLayout& layout);
/// [inputs], the same. Not for tables and stacks.
at::Tensor over_inputs(const at::Tensor& vector, const WeightLayout& layout);

}  // namespace peft::detail
