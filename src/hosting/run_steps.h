// SPDX-License-Identifier: Apache-2.0
// Adapters' steps on an operator: LinearOperator, LookupOperator or
// ConvolutionOperator. One recursion serves all three, so every method works in
// each.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/addcmul.h>

#include "hosting/alora_positions.h"
#include "hosting/steps.h"

namespace peft::detail {

// y, which the operator and earlier adapters gave, without the bias.
template <class Operator>
at::Tensor without_bias(const Operator& op, const at::Tensor& y) {
  return op.bias().defined() ? y - op.bias() : y;
}

// W' = diag(gain) W.
template <class Operator>
at::Tensor
amplify(const Operator& op, const at::Tensor& y, const at::Tensor& gain) {
  const at::Tensor change = op.over_outputs(gain) - 1;
  const at::Tensor map = without_bias(op, y);
  return map.scalar_type() == change.scalar_type() ? at::addcmul(y, map, change)
                                                   : y + map * change;
}

template <class Operator>
at::Tensor
scale_inputs(const Operator& op, const at::Tensor& x, const Gain& gain) {
  return (x * op.over_inputs(gain.vector)).to(x.scalar_type());
}

// At the activated positions alone; the others stay what they are, to the bit.
template <class Operator>
at::Tensor add_activated(
    const Operator& op,
    const at::Tensor& y,
    const at::Tensor& x,
    const LowRankStep& step) {
  const LowRank& form = step.form;
  const at::Tensor rows = activated_rows(x);
  const at::Tensor acting = x.reshape({-1, x.size(-1)}).index_select(0, rows);
  at::Tensor added =
      op.product(op.input(acting, form.A, step.dropout), form.A, form.B);
  if (form.bias.defined()) {
    added = added + form.bias;
  }
  added = added * (form.scale * op.alpha());
  const auto sum = at::promote_types(y.scalar_type(), added.scalar_type());
  return y.to(sum)
      .reshape({-1, y.size(-1)})
      .index_add(0, rows, added.to(sum))
      .view(y.sizes());
}

template <class Operator>
at::Tensor add_low_rank(
    const Operator& op,
    const at::Tensor& y,
    const at::Tensor& x,
    const LowRankStep& step) {
  const LowRank& form = step.form;
  const double scale = form.scale * op.alpha();
  if (form.activated) {
    return add_activated(op, y, x, step);
  }
  const at::Tensor in = op.input(x, form.A, step.dropout);
  if (!form.bias.defined() && !form.A0.defined() && !form.gain.defined()) {
    return op.add_product(y, in, form.A, form.B, scale);
  }
  at::Tensor added = op.product(in, form.A, form.B);
  if (form.bias.defined()) {
    added = added + op.over_outputs(form.bias);
  }
  at::Tensor taken;  // what the base holds already
  if (form.A0.defined()) {
    taken = op.product(op.input(x, form.A0, 0), form.A0, form.B0);
  }
  if (!form.gain.defined()) {
    return at::add(y, taken.defined() ? added - taken : added, scale);
  }
  const at::Tensor gain = op.over_outputs(form.gain);
  if (step.dropout == 0) {
    const at::Tensor sum = taken.defined() ? added - taken : added;
    return amplify(op, y, form.gain) + gain * (sum * scale);
  }
  // As in PEFT, the base too is run on what dropout left.
  at::Tensor base = op.map(in);
  at::Tensor before = y;
  if (taken.defined()) {
    base = at::sub(base, op.product(in, form.A0, form.B0), scale);
    before = at::sub(y, taken, scale);
  }
  return before + (gain - 1) * base + gain * (added * scale);
}

// The first `count` steps of an operator whose plain result for an input is
// what `bottom` gives.
template <class Operator, class Bottom>
at::Tensor apply(
    const Operator& op,
    const at::Tensor& x,
    const Steps& steps,
    std::size_t count,
    const Bottom& bottom) {
  if (count == 0) {
    return bottom(x);
  }
  const Step& last = steps[count - 1];
  const auto before = [&](const at::Tensor& input) {
    return apply(op, input, steps, count - 1, bottom);
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
  if (const auto* offset = std::get_if<Offset>(&last)) {
    return before(x) + op.over_outputs(offset->vector);
  }
  const Gain& gain = std::get<Gain>(last);
  if (gain.side == Gain::Side::outputs) {
    return amplify(op, before(x), gain.vector);
  }
  return before(scale_inputs(op, x, gain));
}

// All steps; the result has the dtype that the plain operator gave.
template <class Operator, class Bottom>
at::Tensor apply_all(
    const Operator& op,
    const at::Tensor& x,
    const Steps& steps,
    const Bottom& bottom) {
  auto dtype = at::ScalarType::Undefined;
  const at::Tensor y = apply(
      op, x, steps, steps.size(), [&](const at::Tensor& input) -> at::Tensor {
        at::Tensor plain = bottom(input);
        dtype = plain.scalar_type();
        return plain;
      });
  return y.to(dtype);
}

// What the plain operator reads below all steps.
template <class Operator>
at::Tensor
bottom_input(const Operator& op, const at::Tensor& x, const Steps& steps) {
  at::Tensor input = x;
  for (std::size_t i = steps.size(); i-- > 0;) {
    const auto* gain = std::get_if<Gain>(&steps[i]);
    if (gain && gain->side == Gain::Side::inputs) {
      input = scale_inputs(op, input, *gain);
    }
  }
  return input;
}

}  // namespace peft::detail
