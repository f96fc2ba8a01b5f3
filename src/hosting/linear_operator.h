// SPDX-License-Identifier: Apache-2.0
// What an adapter's step needs of linear maps: see apply_adapters.cpp.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/linear.h>

#include "hosting/apply_adapters.h"
#include "hosting/factor_features.h"

namespace peft::detail {

// The linear operators. Tensors are [..., features].
class LinearOperator {
  using Tensor = at::Tensor;

 public:
  LinearOperator(const LinearCall& call, const Tensor& weight, Tensor bias)
      : call_(call),
        weight_(weight),
        given_bias_(std::move(bias)),
        bias_(
            call.beta == 1 || !given_bias_.defined()
                ? given_bias_
                : given_bias_ * call.beta) {}

  Tensor run(const Tensor& x) const {
    return call_.run(x, weight_, given_bias_);
  }
  Tensor map(const Tensor& x) const {
    return call_.run(x, weight_.to(x.scalar_type()), Tensor());
  }
  /// What `run` adds at the end; undefined: nothing.
  const Tensor& bias() const { return bias_; }
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

  Tensor replace_rows(const Tensor& y, const Tensor& x, const Rows& rows)
      const {
    const Tensor tokens = rows.index[0];
    const Tensor values = rows.values.index_select(0, rows.index[1]);
    Tensor added = at::linear(features_for(x, values, 0), values);
    added = call_.alpha == 1 ? added : added * call_.alpha;
    if (bias_.defined()) {
      const bool is_one = bias_.dim() == 0 || bias_.size(-1) == 1;
      added = added + (is_one ? bias_ : bias_.index_select(-1, tokens));
    }
    return y.index_copy(-1, tokens, added.to(y.scalar_type()));
  }

 private:
  const LinearCall& call_;
  const Tensor& weight_;
  const Tensor given_bias_;
  const Tensor bias_;
};
}  // namespace peft::detail
