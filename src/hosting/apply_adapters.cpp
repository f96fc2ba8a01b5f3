// SPDX-License-Identifier: Apache-2.0
#include "hosting/apply_adapters.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addcmul.h>

#include "hosting/alora_positions.h"
#include "hosting/convolution_operator.h"
#include "hosting/linear_operator.h"
#include "hosting/lookup_operator.h"

namespace peft::detail {
namespace {

using at::Tensor;

// y, which the operator and earlier adapters gave, without the bias.
template <class Operator>
Tensor without_bias(const Operator& op, const Tensor& y) {
  return op.bias().defined() ? y - op.bias() : y;
}

// W' = diag(gain) W.
template <class Operator>
Tensor amplify(const Operator& op, const Tensor& y, const Tensor& gain) {
  const Tensor change = op.over_outputs(gain) - 1;
  const Tensor map = without_bias(op, y);
  return map.scalar_type() == change.scalar_type() ? at::addcmul(y, map, change)
                                                   : y + map * change;
}

// At the activated positions alone; the others stay what they are, to the bit.
template <class Operator>
Tensor add_activated(
    const Operator& op,
    const Tensor& y,
    const Tensor& x,
    const LowRankStep& step) {
  const LowRank& form = step.form;
  const Tensor rows = activated_rows(x);
  const Tensor acting = x.reshape({-1, x.size(-1)}).index_select(0, rows);
  Tensor added =
      op.product(op.input(acting, form.A, step.dropout), form.A, form.B);
  if (form.bias.defined()) {
    added = added + form.bias;
  }
  added = added * (form.scale * op.alpha());
  return y.reshape({-1, y.size(-1)})
      .index_add(0, rows, added.to(y.scalar_type()))
      .view(y.sizes());
}

template <class Operator>
Tensor add_low_rank(
    const Operator& op,
    const Tensor& y,
    const Tensor& x,
    const LowRankStep& step) {
  const LowRank& form = step.form;
  const double scale = form.scale * op.alpha();
  if (form.activated) {
    return add_activated(op, y, x, step);
  }
  const Tensor in = op.input(x, form.A, step.dropout);
  if (!form.bias.defined() && !form.A0.defined() && !form.gain.defined()) {
    return op.add_product(y, in, form.A, form.B, scale);
  }
  Tensor added = op.product(in, form.A, form.B);
  if (form.bias.defined()) {
    added = added + op.over_outputs(form.bias);
  }
  Tensor taken;  // what the base holds already
  if (form.A0.defined()) {
    taken = op.product(op.input(x, form.A0, 0), form.A0, form.B0);
  }
  if (!form.gain.defined()) {
    return at::add(y, taken.defined() ? added - taken : added, scale);
  }
  const Tensor gain = op.over_outputs(form.gain);
  if (step.dropout == 0) {
    const Tensor sum = taken.defined() ? added - taken : added;
    return amplify(op, y, form.gain) + gain * (sum * scale);
  }
  // As in PEFT, the base too is run on what dropout left.
  Tensor base = op.map(in);
  Tensor before = y;
  if (taken.defined()) {
    base = at::sub(base, op.product(in, form.A0, form.B0), scale);
    before = at::sub(y, taken, scale);
  }
  return before + (gain - 1) * base + gain * (added * scale);
}

// The operator with the first `count` steps; `dtype` becomes what the plain
// operator gave.
template <class Operator>
Tensor apply(
    const Operator& op,
    const Tensor& x,
    const Steps& steps,
    std::size_t count,
    at::ScalarType& dtype) {
  if (count == 0) {
    const Tensor y = op.run(x);
    dtype = y.scalar_type();
    return y;
  }
  const Step& last = steps[count - 1];
  const auto before = [&](const Tensor& input) {
    return apply(op, input, steps, count - 1, dtype);
  };
  if (const auto* low_rank = std::get_if<LowRankStep>(&last)) {
    return add_low_rank(op, before(x), x, *low_rank);
  }
  if (const auto* rows = std::get_if<Rows>(&last)) {
    return op.replace_rows(before(x), x, *rows);
  }
  if (const auto* observed = std::get_if<Observed>(&last)) {
    (*observed->see)(x);
    return before(x);
  }
  const Gain& gain = std::get<Gain>(last);
  if (gain.side == Gain::Side::outputs) {
    return amplify(op, before(x), gain.vector);
  }
  const Tensor scaled = x * op.over_inputs(gain.vector);
  return before(scaled.to(x.scalar_type()));
}

template <class Operator>
Tensor apply_all(const Operator& op, const Tensor& x, const Steps& steps) {
  auto dtype = at::ScalarType::Undefined;
  const Tensor y = apply(op, x, steps, steps.size(), dtype);
  return y.to(dtype);
}

}  // namespace

at::Tensor
apply_adapters(const LinearCall& call, const Tensor& x, const Steps& steps) {
  return apply_all(LinearOperator(call), x, steps);
}

at::Tensor apply_adapters(
    const Lookup& lookup,
    const Tensor& table,
    const Tensor& indices,
    const Steps& steps) {
  return apply_all(LookupOperator(lookup, table), indices, steps);
}

at::Tensor apply_adapters(
    const Convolution& convolution,
    const Tensor& kernel,
    const Tensor& x,
    const Steps& steps) {
  return apply_all(ConvolutionOperator(convolution, kernel), x, steps);
}

}  // namespace peft::detail
