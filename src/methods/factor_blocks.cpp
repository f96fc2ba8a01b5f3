// SPDX-License-Identifier: Apache-2.0
#include "methods/factor_blocks.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <c10/util/Exception.h>

#include "methods/low_rank_factors.h"

namespace peft::detail {

std::int64_t block_count(const WeightLayout& layout) {
  TORCH_INTERNAL_ASSERT(layout.form != WeightLayout::Form::whole);
  return layout.count * layout.groups;  // one of them is 1
}

std::int64_t block_rank(const WeightLayout& layout, std::int64_t rank) {
  TORCH_INTERNAL_ASSERT(rank % layout.groups == 0);
  return rank / layout.groups;
}

std::vector<FactorPair> split_factors(
    const FactorPair& factors,
    const WeightLayout& layout) {
  const auto count = block_count(layout);
  const at::Tensor A = factors.A.flatten(1);
  const at::Tensor B = factors.B.flatten(1);
  // Both kinds of blocks have their rows of A one after the other.
  const auto rows = A.size(0) / count;
  const auto outputs = layout.outputs / layout.groups;
  const bool is_stack = layout.form == WeightLayout::Form::stack;
  std::vector<FactorPair> blocks;
  for (std::int64_t i = 0; i < count; ++i) {
    blocks.push_back(
        {A.narrow(0, i * rows, rows),
         is_stack ? B.slice(1, i, B.size(1), count)
                  : B.narrow(0, i * outputs, outputs)});
  }
  return blocks;
}

FactorPair join_factors(
    const std::vector<FactorPair>& blocks,
    const WeightLayout& layout) {
  const auto count = block_count(layout);
  TORCH_INTERNAL_ASSERT(static_cast<std::int64_t>(blocks.size()) == count);
  const auto rank = blocks.front().A.size(0);
  std::vector<at::Tensor> of_A;
  std::vector<at::Tensor> of_B;
  for (const FactorPair& block : blocks) {
    TORCH_INTERNAL_ASSERT(block.A.size(0) == rank && block.B.size(1) == rank);
    of_A.push_back(block.A);
    of_B.push_back(block.B);
  }
  const FactorShapes shapes = factor_shapes(layout, rank * layout.groups);
  const at::Tensor B = layout.form == WeightLayout::Form::stack
      ? at::stack(of_B, 2)
      : at::cat(of_B, 0);
  return {at::cat(of_A, 0).reshape(shapes.A), B.reshape(shapes.B)};
}

}  // namespace peft::detail
