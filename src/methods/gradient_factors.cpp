// SPDX-License-Identifier: Apache-2.0
#include "methods/gradient_factors.h"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/randperm.h>

#include "base/text.h"
#include "methods/finite.h"
#include "methods/low_rank_svd.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

constexpr std::int64_t steps = 4;

struct Choice {
  at::Tensor A;  // [r], of the 2 r singular vectors
  at::Tensor B;
};

Choice choose(
    const std::string& direction,
    std::int64_t r,
    const at::Generator& random) {
  if (direction == "ArBr") {
    return {at::arange(1, 2 * r, 2), at::arange(0, 2 * r, 2)};
  }
  if (direction == "A2rBr") {
    return {at::arange(r, 2 * r), at::arange(r)};
  }
  if (direction == "ArB2r") {
    return {at::arange(r), at::arange(r, 2 * r)};
  }
  if (direction == "random") {
    const at::Tensor chosen =
        at::randperm(2 * r, random, at::TensorOptions(at::kLong))
            .slice(0, 0, r);
    return {chosen, chosen};
  }
  throw Error(
      ErrorKind::config,
      concat(
          "LoRA-GA: direction = '",
          direction,
          "'; use 'ArBr', 'A2rBr', 'ArB2r' or 'random'"));
}

/// `first` is the first singular value in B.
void rescale(
    FactorPair& pair,
    const std::string& scale,
    double stable_gamma,
    double strength,
    const at::Tensor& weight,
    const at::Tensor& first,
    const at::Generator& random) {
  if (scale == "stable") {
    const auto out = static_cast<double>(weight.size(0));
    pair.B = pair.B * (std::pow(out, 0.25) / std::sqrt(stable_gamma));
  } else if (scale == "weight_svd") {
    if (first.item<double>() > 0) {
      const Svd svd = low_rank_svd(weight, pair.A.size(0), steps, random);
      pair.B = pair.B * (svd.S[0] / first);
    }
  } else if (scale == "gd_scale") {
    pair.A = pair.A / strength;
    pair.B = pair.B / strength;
  } else if (scale != "unit") {
    throw Error(
        ErrorKind::config,
        concat(
            "LoRA-GA: scale = '",
            scale,
            "'; use 'stable', 'weight_svd', 'gd_scale' or 'unit'"));
  }
}

void check(
    const at::Tensor& weight,
    const at::Tensor& gradient,
    std::int64_t r) {
  if (gradient.dim() != 2 || gradient.sizes() != weight.sizes()) {
    throw Error(
        ErrorKind::shape,
        concat(
            "LoRA-GA: the gradient is ",
            gradient.sizes(),
            ", its weight ",
            weight.sizes()));
  }
  const auto most = std::min(gradient.size(0), gradient.size(1));
  if (2 * r > most) {
    throw Error(
        ErrorKind::config,
        concat(
            "LoRA-GA takes 2 r directions of the gradient, which has ",
            most,
            "; r = ",
            r,
            " is too large, set r or rank_pattern for this module to at most ",
            most / 2));
  }
}

}  // namespace

FactorPair gradient_factors(
    const at::Tensor& weight,
    const at::Tensor& gradient,
    std::int64_t r,
    double strength,
    const std::string& direction,
    const std::string& scale,
    double stable_gamma) {
  check(weight, gradient, r);
  check_finite(
      gradient,
      "LoRA-GA: the gradient holds NaN or infinite values; look at the loss "
      "and the data that it was taken on");
  const at::NoGradGuard no_grad;
  const at::Tensor G = gradient.to(at::kFloat);
  const at::Generator random = seeded(0);
  const auto q = std::min({4 * r, G.size(0), G.size(1)});
  const Svd svd = low_rank_svd(G, q, steps, random);
  const Choice choice = choose(direction, r, random);
  const at::Tensor S = svd.S.index_select(0, choice.B.to(G.device()));
  FactorPair pair{
      svd.V.index_select(0, choice.A.to(G.device())),
      svd.U.index_select(1, choice.B.to(G.device())) * S};
  rescale(pair, scale, stable_gamma, strength, weight, S[0], random);
  const std::string found = concat(
      "LoRA-GA: scale = '",
      scale,
      "' makes factors that are NaN or infinite, with stable_gamma = ",
      stable_gamma,
      " and strength ",
      strength,
      "; look at these and at the weight, or use scale = 'unit'");
  check_finite(pair, found);
  return pair;
}

}  // namespace peft::detail
