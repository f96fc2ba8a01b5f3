// SPDX-License-Identifier: Apache-2.0
#include "hosting/apply_adapters.h"

#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>

namespace peft::detail {
namespace {

using at::Tensor;

// Features as a factor wants them: in its dtype, and what dropout leaves of
// them. Autocast casts for itself.
Tensor features_for(const Tensor& x, const Tensor& factor, double dropout) {
  const bool autocast = at::autocast::is_autocast_enabled(x.device().type());
  const Tensor cast = autocast ? x : x.to(factor.scalar_type());
  return dropout > 0 ? at::dropout(cast, dropout, true) : cast;
}

// The linear operators. Tensors are [..., features].
class LinearOperator {
 public:
  explicit LinearOperator(const LinearCall& call) : call_(call) {}

  Tensor run(const Tensor& x) const { return call_.run(x); }
  Tensor map(const Tensor& x) const { return call_.map(x); }
  const Tensor& bias() const { return call_.bias; }
  double alpha() const { return call_.alpha; }

  Tensor input(const Tensor& x, const Tensor& A, double dropout) const {
    return features_for(x, A, dropout);
  }

  Tensor product(const Tensor& x, const Tensor& A, const Tensor& B) const {
    return at::linear(at::linear(x, A), B);
  }

  Tensor add_product(
      const Tensor& y,
      const Tensor& x,
      const Tensor& A,
      const Tensor& B,
      double scale) const {
    const Tensor s = at::linear(x, A);
    if (s.dim() < 2 || y.size(-1) == 0 || s.size(-1) == 0 ||
        s.scalar_type() != y.scalar_type() ||
        B.scalar_type() != y.scalar_type()) {
      return at::add(y, at::linear(s, B), scale);
    }
    // One product straight into the sum: no second buffer of y's size, and
    // B's gradient comes out of the fast order (s' g)'.
    return at::addmm(
               y.reshape({-1, y.size(-1)}),
               s.reshape({-1, s.size(-1)}),
               B.t(),
               1,
               scale)
        .view(y.sizes());
  }

  Tensor over_outputs(const Tensor& vector) const { return vector; }
  Tensor over_inputs(const Tensor& vector) const { return vector; }

 private:
  const LinearCall& call_;
};

// Table lookups: "x" are the indices.
class LookupOperator {
 public:
  LookupOperator(const Lookup& lookup, const Tensor& table)
      : lookup_(lookup), table_(table) {}

  Tensor run(const Tensor& indices) const { return look_up(table_, indices); }
  Tensor map(const Tensor& indices) const { return run(indices); }
  const Tensor& bias() const { return none_; }
  double alpha() const { return 1; }

  Tensor input(const Tensor& indices, const Tensor&, double) const {
    return indices;
  }

  Tensor product(const Tensor& i, const Tensor& A, const Tensor& B) const {
    return at::linear(look_up(A.t(), i), B);
  }

  Tensor add_product(
      const Tensor& y,
      const Tensor& i,
      const Tensor& A,
      const Tensor& B,
      double scale) const {
    return at::add(y, product(i, A, B), scale);
  }

  Tensor over_outputs(const Tensor& vector) const { return vector; }
  // No method scales the inputs of a table.
  Tensor over_inputs(const Tensor& vector) const { return vector; }

 private:
  Tensor look_up(const Tensor& table, const Tensor& indices) const {
    return at::embedding(
        table,
        indices,
        lookup_.padding_idx,
        lookup_.scale_grad_by_freq,
        lookup_.sparse);
  }

  const Lookup& lookup_;
  const Tensor& table_;
  const Tensor none_;
};

// Convolutions. Tensors are [batch, channels, window...], or without batch.
class ConvolutionOperator {
 public:
  ConvolutionOperator(const Convolution& convolution, const Tensor& kernel)
      : convolution_(convolution), kernel_(kernel) {
    if (convolution.bias && convolution.bias->defined()) {
      std::vector<std::int64_t> shape(
          static_cast<std::size_t>(kernel.dim() - 1), 1);
      shape[0] = -1;
      bias_ = convolution.bias->view(shape);
    }
  }

  Tensor run(const Tensor& x) const {
    return convolution_.run(x, kernel_, convolution_.bias, convolution_.groups);
  }
  Tensor map(const Tensor& x) const {
    return convolution_.run(
        x, kernel_.to(x.scalar_type()), std::nullopt, convolution_.groups);
  }
  const Tensor& bias() const { return bias_; }
  double alpha() const { return 1; }

  Tensor input(const Tensor& x, const Tensor& A, double dropout) const {
    return features_for(x, A, dropout);
  }

  Tensor product(const Tensor& x, const Tensor& A, const Tensor& B) const {
    const Tensor s = convolution_.run(x, A, std::nullopt, 1);
    const std::vector<std::int64_t> ones(window(), 1);
    const std::vector<std::int64_t> zeros(window(), 0);
    const bool batched = s.dim() == B.dim();
    const Tensor y = at::convolution(
        batched ? s : s.unsqueeze(0),
        B,
        {},
        ones,
        zeros,
        ones,
        /*transposed=*/false,
        zeros,
        convolution_.groups);
    return batched ? y : y.squeeze(0);
  }

  Tensor add_product(
      const Tensor& y,
      const Tensor& x,
      const Tensor& A,
      const Tensor& B,
      double scale) const {
    return at::add(y, product(x, A, B), scale);
  }

  // Channels stand before the window.
  Tensor over_outputs(const Tensor& vector) const {
    std::vector<std::int64_t> shape(window() + 1, 1);
    shape[0] = -1;
    return vector.reshape(shape);
  }
  Tensor over_inputs(const Tensor& vector) const {
    return over_outputs(vector);
  }

 private:
  std::size_t window() const {
    return static_cast<std::size_t>(kernel_.dim() - 2);
  }

  const Convolution& convolution_;
  const Tensor& kernel_;
  Tensor bias_;
};

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

template <class Operator>
Tensor add_low_rank(
    const Operator& op,
    const Tensor& y,
    const Tensor& x,
    const LowRankStep& step) {
  const LowRank& form = step.form;
  const double scale = form.scale * op.alpha();
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
