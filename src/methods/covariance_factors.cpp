// SPDX-License-Identifier: Apache-2.0
#include "methods/covariance_factors.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/dist.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_inv_ex.h>
#include <ATen/ops/matmul.h>

#include "base/text.h"
#include "methods/finite.h"
#include "methods/low_rank_svd.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

void check(
    const at::Tensor& weight,
    const at::Tensor& covariance,
    std::int64_t r,
    const std::string& method) {
  if (method != "ipm" && method != "kpm") {
    throw Error(
        ErrorKind::config,
        concat("CorDA: corda_method = '", method, "'; use 'ipm' or 'kpm'"));
  }
  const auto inputs = weight.size(1);
  if (covariance.sizes() != at::IntArrayRef{inputs, inputs}) {
    throw Error(
        ErrorKind::shape,
        concat(
            "CorDA: the covariance is ",
            covariance.sizes(),
            ", the weight reads ",
            inputs,
            " inputs"));
  }
  const auto most = std::min(weight.size(0), inputs);
  if (r > most) {
    throw Error(
        ErrorKind::config,
        concat(
            "CorDA takes r directions of the weight, which has ",
            most,
            "; r = ",
            r,
            " is too large, set r or rank_pattern for this module"));
  }
}

struct Inverted {
  at::Tensor matrix;
  at::Tensor inverse;
};

// Adds more and more of the mean of the diagonal to it, until the inverse is
// one.
Inverted make_invertible(const at::Tensor& covariance) {
  const at::Tensor identity = at::eye(covariance.size(0), covariance.options());
  // Contiguous, as in PEFT: the order of the sum shows in the small directions.
  const at::Tensor mean = covariance.diagonal().contiguous().mean();
  double damp = 0.01;
  // Of a covariance it is soon well conditioned; without a positive diagonal
  // it never would be.
  for (int attempt = 0; attempt < 64; ++attempt, damp *= 2) {
    at::Tensor matrix = covariance.clone();
    matrix.diagonal().add_(mean * damp);
    const auto [inverse, info] = at::linalg_inv_ex(matrix);
    const double error =
        at::dist(at::matmul(matrix, inverse), identity).item<double>();
    if (info.item<std::int64_t>() == 0 && error < 0.05) {
      return {matrix, inverse};
    }
  }
  throw Error(
      ErrorKind::input,
      "CorDA: the covariance of the layer's inputs cannot be inverted; its "
      "inputs were zero, or it is no covariance: collect it on more data");
}

}  // namespace

FactorPair covariance_factors(
    const at::Tensor& weight,
    const at::Tensor& covariance,
    std::int64_t r,
    double strength,
    const std::string& method) {
  check(weight, covariance, r, method);
  check_finite(
      covariance,
      "CorDA: the covariance of the layer's inputs holds NaN or infinite "
      "values; look at the data that it was collected on");
  check_finite(weight, "CorDA: the weight holds NaN or infinite values");
  const at::NoGradGuard no_grad;
  const Inverted C = make_invertible(covariance.to(at::kFloat));
  const Svd svd = whole_svd(at::matmul(weight.to(at::kFloat), C.matrix));
  const auto first = method == "ipm" ? 0 : svd.S.size(0) - r;
  const at::Tensor root = (svd.S.slice(0, first, first + r) / strength).sqrt();
  // All of V C^-1 before its rows are taken, as the last bits of a product
  // depend on its shape.
  const at::Tensor V = at::matmul(svd.V, C.inverse);
  FactorPair pair{
      V.slice(0, first, first + r) * root.unsqueeze(1),
      svd.U.slice(1, first, first + r) * root};
  const std::string found = concat(
      "CorDA makes factors that are NaN or infinite, with strength ",
      strength,
      "; look at lora_alpha, which must be positive, and at the weight");
  check_finite(pair, found);
  return pair;
}

}  // namespace peft::detail
