// SPDX-License-Identifier: Apache-2.0
#include "methods/weight_layout.h"

#include "base/text.h"

namespace peft::detail {

bool is_adaptable_dtype(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble ||
      dtype == at::kBFloat16 || dtype == at::kHalf;
}

WeightLayout WeightLayout::matrix(const at::Tensor& w, bool inputs_first) {
  return {
      .form = Form::matrix,
      .outputs = w.size(inputs_first ? 1 : 0),
      .inputs = w.size(inputs_first ? 0 : 1),
      .inputs_first = inputs_first};
}

WeightLayout WeightLayout::table(const at::Tensor& weight) {
  return {
      .form = Form::table, .outputs = weight.size(1), .inputs = weight.size(0)};
}

WeightLayout WeightLayout::kernel(
    const at::Tensor& weight,
    std::int64_t groups) {
  return {
      .form = Form::kernel,
      .outputs = weight.size(0),
      .inputs = weight.size(1) * groups,
      .window = weight.sizes().slice(2).vec(),
      .groups = groups};
}

WeightLayout WeightLayout::bare(const at::Tensor& weight) {
  if (weight.dim() == 2) {
    return matrix(weight);
  }
  if (weight.dim() == 3) {
    return {
        .form = Form::stack,
        .outputs = weight.size(1),
        .inputs = weight.size(2),
        .count = weight.size(0)};
  }
  return {};
}

std::string WeightLayout::describe() const {
  switch (form) {
    case Form::matrix:
      return concat("a ", outputs, "x", inputs, " matrix");
    case Form::table:
      return concat("a table of ", inputs, " rows of ", outputs);
    case Form::kernel:
      return concat(
          "a kernel from ",
          inputs,
          " to ",
          outputs,
          " channels in ",
          groups,
          groups == 1 ? " group" : " groups");
    case Form::stack:
      return concat(count, " matrices of ", outputs, "x", inputs);
    case Form::whole:
      return "a tensor that is neither matrix, table nor kernel";
  }
  return "";
}

}  // namespace peft::detail
