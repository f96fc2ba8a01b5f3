// SPDX-License-Identifier: Apache-2.0
#include "hosting/stack_product.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/matmul.h>

#include "hosting/factor_features.h"

namespace peft::detail {
namespace {

// PEFT keeps A [r count, in] matrix by matrix, and B [out, r count] rank by
// rank.
at::Tensor matrices_of_A(const at::Tensor& A, std::int64_t count) {
  return A.view({count, -1, A.size(1)});  // [count, r, in]
}

at::Tensor matrices_of_B(const at::Tensor& B, std::int64_t count) {
  return B.view({B.size(0), -1, count});  // [out, r, count]
}

}  // namespace

bool are_low_rank(const Steps& steps) {
  return std::all_of(steps.begin(), steps.end(), [](const Step& step) {
    const auto* low_rank = std::get_if<LowRankStep>(&step);
    return low_rank && !low_rank->form.bias.defined() &&
        !low_rank->form.A0.defined() && !low_rank->form.gain.defined();
  });
}

bool take_matrix(Steps& steps, std::int64_t index, std::int64_t count) {
  if (!are_low_rank(steps)) {
    return false;
  }
  for (Step& step : steps) {
    LowRank& form = std::get<LowRankStep>(step).form;
    form.A = matrices_of_A(form.A, count).select(0, index);
    form.B = matrices_of_B(form.B, count).select(2, index);
  }
  return true;
}

at::Tensor multiply_stack(
    c10::function_ref<at::Tensor(const at::Tensor& x)> run,
    const at::Tensor& x,
    const Steps& steps,
    std::int64_t count) {
  at::Tensor y = run(x);
  const auto dtype = y.scalar_type();
  for (const Step& step : steps) {
    const LowRank& form = std::get<LowRankStep>(step).form;
    const at::Tensor s = at::matmul(
        features_for(x, form.A, 0),
        matrices_of_A(form.A, count).transpose(1, 2));
    const at::Tensor product =
        at::matmul(s, matrices_of_B(form.B, count).permute({2, 1, 0}));
    y = at::add(y, product, form.scale);
  }
  return y.to(dtype);
}

}  // namespace peft::detail
