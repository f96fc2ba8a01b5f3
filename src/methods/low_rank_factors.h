// SPDX-License-Identifier: Apache-2.0
// A pair of low-rank factors by the layout of the weight they stand on:
//
// layout   A                       B                           PEFT keys
// matrix   [r, in]                 [out, r]                    lora_A.weight
// kernel   [r, in, window]         [out, r / groups, 1...]     lora_B.weight
// stack    [r count, in]           [out, r count], rank-major  (the same)
// table    [r, rows]               [dim, r]                    lora_embedding_A
//
// A kernel's A reads all input channels even when the base has groups (as in
// PEFT), so B A is a kernel of a single group.
#pragma once

#include <ATen/core/Tensor.h>

#include "methods/weight_layout.h"

namespace peft::detail {

struct FactorShapes {
  std::vector<std::int64_t> A;
  std::vector<std::int64_t> B;
};

FactorShapes factor_shapes(const WeightLayout& layout, std::int64_t rank);

/// B A in the weight's own shape, of a kernel in groups in that of ungrouped().
/// Half precision is multiplied in float32, and the result stays so.
at::Tensor multiply_factors(
    const at::Tensor& A,
    const at::Tensor& B,
    const WeightLayout& layout);

/// A kernel in groups as the one of a single group that does the same:
/// [outputs, inputs, window...], zero where a group does not read.
at::Tensor ungrouped(const at::Tensor& kernel, const WeightLayout& layout);

/// A weight as [outputs, everything it reads]: a view. Not for stacks.
at::Tensor as_matrix(const at::Tensor& weight, const WeightLayout& layout);

/// [outputs] shaped to multiply a weight of this layout. Not for stacks.
at::Tensor over_outputs(const at::Tensor& vector, const WeightLayout& layout);
/// [inputs], the same for `weight`, which may be ungrouped. Not for tables and
/// stacks.
at::Tensor over_inputs(
    const at::Tensor& vector,
    const WeightLayout& layout,
    const at::Tensor& weight);

}  // namespace peft::detail
