// SPDX-License-Identifier: Apache-2.0
#include "methods/low_rank_factors.h"

#include <ATen/ops/bmm.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/mm.h>

#include "methods/squared_norms.h"

namespace peft::detail {
namespace {

using Form = WeightLayout::Form;

at::Tensor multiply_exact(
    const at::Tensor& A,
    const at::Tensor& B,
    const WeightLayout& layout) {
  switch (layout.form) {
    case Form::table:
      return at::mm(B, A).t();
    case Form::stack: {
      const auto a = A.view({layout.count, -1, layout.inputs});
      const auto b = B.view({layout.outputs, -1, layout.count});
      return at::einsum(
          layout.inputs_first ? "ore,eri->eio" : "ore,eri->eoi", {b, a});
    }
    case Form::kernel: {
      std::vector<std::int64_t> shape = {layout.outputs, layout.inputs};
      shape.insert(shape.end(), layout.window.begin(), layout.window.end());
      // Each group of outputs has its own share of the ranks.
      const std::int64_t groups = layout.groups;
      return at::bmm(
                 B.reshape({groups, -1, B.size(1)}),
                 A.reshape({groups, B.size(1), -1}))
          .view(shape);
    }
    default:
      return layout.inputs_first ? at::mm(B, A).t() : at::mm(B, A);
  }
}

}  // namespace

FactorShapes factor_shapes(const WeightLayout& layout, std::int64_t rank) {
  if (layout.form == Form::table) {
    return {{rank, layout.inputs}, {layout.outputs, rank}};
  }
  const std::int64_t total = rank * layout.count;
  FactorShapes shapes{
      {total, layout.inputs}, {layout.outputs, total / layout.groups}};
  shapes.A.insert(shapes.A.end(), layout.window.begin(), layout.window.end());
  shapes.B.insert(shapes.B.end(), layout.window.size(), 1);
  return shapes;
}

at::Tensor multiply_factors(
    const at::Tensor& A,
    const at::Tensor& B,
    const WeightLayout& layout) {
  return multiply_exact(exact(A), exact(B), layout);
}

at::Tensor ungrouped(const at::Tensor& kernel, const WeightLayout& layout) {
  const std::int64_t groups = layout.groups;
  const at::Tensor blocks =
      kernel.reshape({groups, layout.outputs / groups, kernel.size(1), -1});
  at::Tensor wide = kernel.new_zeros(
      {groups,
       layout.outputs / groups,
       groups,
       kernel.size(1),
       blocks.size(3)});
  for (std::int64_t g = 0; g < groups; ++g) {
    wide.select(0, g).select(1, g).copy_(blocks[g]);
  }
  std::vector<std::int64_t> shape = {layout.outputs, layout.inputs};
  shape.insert(shape.end(), layout.window.begin(), layout.window.end());
  return wide.view(shape);
}

at::Tensor as_matrix(const at::Tensor& weight, const WeightLayout& layout) {
  if (layout.form == Form::table || layout.inputs_first) {
    return weight.t();
  }
  return weight.flatten(1);
}

at::Tensor over_outputs(const at::Tensor& vector, const WeightLayout& layout) {
  if (layout.form == Form::table || layout.inputs_first) {
    return vector;  // the last dimension
  }
  std::vector<std::int64_t> shape(2 + layout.window.size(), 1);
  shape[0] = layout.outputs;
  return vector.reshape(shape);
}

at::Tensor over_inputs(
    const at::Tensor& vector,
    const WeightLayout& layout,
    const at::Tensor& weight) {
  if (layout.inputs_first) {
    return vector.unsqueeze(1);
  }
  std::vector<std::int64_t> shape(2 + layout.window.size(), 1);
  if (layout.groups == 1 || weight.size(1) == layout.inputs) {
    shape[1] = layout.inputs;
    return vector.reshape(shape);
  }
  // Each group of outputs reads its own share of the inputs.
  const std::int64_t share = layout.inputs / layout.groups;
  shape[0] = layout.outputs;
  shape[1] = share;
  return vector.reshape({layout.groups, 1, share})
      .expand({layout.groups, layout.outputs / layout.groups, share})
      .reshape(shape);
}

}  // namespace peft::detail
