// SPDX-License-Identifier: Apache-2.0
// What an adapter's step needs of convolutions: see apply_adapters.cpp.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/convolution.h>

#include "hosting/apply_adapters.h"
#include "hosting/factor_features.h"

namespace peft::detail {

// Convolutions. Tensors are [batch, channels, window...], or without batch.
class ConvolutionOperator {
  using Tensor = at::Tensor;

 public:
  ConvolutionOperator(
      const Convolution& convolution,
      const Tensor& kernel,
      Tensor bias)
      : convolution_(convolution),
        kernel_(kernel),
        given_bias_(std::move(bias)) {
    if (given_bias_.defined()) {
      bias_ = over_outputs(given_bias_);
    }
  }

  Tensor run(const Tensor& x) const {
    return convolution_.run(
        x,
        kernel_,
        given_bias_.defined() ? std::optional(given_bias_) : std::nullopt,
        groups());
  }
  Tensor map(const Tensor& x) const {
    return convolution_.run(
        x, kernel_.to(x.scalar_type()), std::nullopt, groups());
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
        B.to(s.scalar_type()),  // autocast leaves this operator alone
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

  // No method replaces rows of a kernel.
  Tensor replace_rows(const Tensor& y, const Tensor&, const Rows&) const {
    return y;
  }

 private:
  std::size_t window() const {
    return static_cast<std::size_t>(kernel_.dim() - 2);
  }

  // A merged kernel may be one of a single group.
  std::int64_t groups() const {
    return kernel_.size(1) == convolution_.inputs ? 1 : convolution_.groups;
  }

  const Convolution& convolution_;
  const Tensor& kernel_;
  const Tensor given_bias_;
  Tensor bias_;
};
}  // namespace peft::detail
