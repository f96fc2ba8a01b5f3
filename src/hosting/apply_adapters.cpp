// SPDX-License-Identifier: Apache-2.0
#include "hosting/apply_adapters.h"

#include "hosting/convolution_operator.h"
#include "hosting/linear_operator.h"
#include "hosting/lookup_operator.h"
#include "hosting/mixed_operator.h"
#include "hosting/run_steps.h"

namespace peft::detail {
namespace {

using at::Tensor;

template <class Operator, class Call>
Tensor apply_reading(
    const Call& call,
    const WeightReading& weight,
    const std::optional<Tensor>& bias,
    const Tensor& x,
    std::int64_t features,
    bool positions_first,
    bool flattened = false) {
  if (weight.batch) {
    const RowSplit rows = weight.batch->split(
        x, weight.layer, features, positions_first, flattened);
    return MixedOperator<Operator, Call>(call, weight, bias, rows).run(x);
  }
  const CheapReading& only = weight.parts.front();
  const Operator op(call, only.base, bias ? plain(*bias) : Tensor());
  return apply_all(
      op, x, only.steps, [&](const Tensor& input) { return op.run(input); });
}

}  // namespace

Tensor apply_adapters(
    const LinearCall& call,
    const WeightReading& weight,
    const std::optional<Tensor>& bias,
    const Tensor& x) {
  return apply_reading<LinearOperator>(
      call, weight, bias, x, 1, call.positions_first, call.flattened);
}

Tensor apply_adapters(
    const Lookup& lookup,
    const WeightReading& table,
    const Tensor& indices) {
  return apply_reading<LookupOperator>(
      lookup, table, std::nullopt, indices, 0, false);
}

Tensor apply_adapters(
    const Convolution& convolution,
    const WeightReading& kernel,
    const std::optional<Tensor>& bias,
    const Tensor& x) {
  return apply_reading<ConvolutionOperator>(
      convolution, kernel, bias, x, kernel.parts.front().base.dim() - 1, false);
}

}  // namespace peft::detail
