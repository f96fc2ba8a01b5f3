// SPDX-License-Identifier: Apache-2.0
#include "methods/factor_svd.h"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/kthvalue.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/matmul.h>
#include <c10/util/Exception.h>

#include "base/text.h"
#include "methods/finite.h"
#include "methods/squared_norms.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

constexpr const char* not_finite =
    "the adapters hold NaN or infinite values, so there are no singular values "
    "to find; look at their training, or leave out the adapter that does";

// Not at::quantile, which takes at most 2^24 values.
double quantile_of(const at::Tensor& values, double share) {
  const double place = share * static_cast<double>(values.numel() - 1);
  const double below = std::floor(place);
  const auto value_at = [&](double index) {
    const auto k = static_cast<std::int64_t>(index) + 1;
    return std::get<0>(at::kthvalue(values, k)).item<double>();
  };
  const double low = value_at(below);
  return place == below ? low
                        : low + (place - below) * (value_at(below + 1) - low);
}

void clamp_to_quantile(FactorPair& pair, double clamp) {
  if (!(clamp >= 0 && clamp <= 1)) {
    throw Error(
        ErrorKind::config,
        concat("svd_clamp = ", clamp, "; it is a quantile, between 0 and 1"));
  }
  const double most =
      quantile_of(at::cat({pair.B.reshape(-1), pair.A.reshape(-1)}), clamp);
  if (most < 0) {
    throw Error(
        ErrorKind::config,
        concat(
            "svd_clamp = ",
            clamp,
            ": the factors' quantile there is ",
            most,
            ", and nothing lies between its negative and it; use one well "
            "above 0.5, as 0.99"));
  }
  pair.A = pair.A.clamp(-most, most);
  pair.B = pair.B.clamp(-most, most);
}

}  // namespace

Svd svd_of_matrix(const at::Tensor& delta) {
  check_finite(delta, not_finite);
  const at::NoGradGuard no_grad;
  return whole_svd(exact(delta));
}

Svd svd_of_product(const FactorPair& pair) {
  check_finite(pair, not_finite);
  const at::NoGradGuard no_grad;
  const auto [Q_B, R_B] = at::linalg_qr(exact(pair.B));
  const auto [Q_A, R_A] = at::linalg_qr(exact(pair.A).t());
  const Svd core = whole_svd(at::matmul(R_B, R_A.t()));
  return {at::matmul(Q_B, core.U), core.S, at::matmul(core.V, Q_A.t())};
}

FactorPair
factors_of(const Svd& svd, std::int64_t rank, std::optional<double> clamp) {
  TORCH_INTERNAL_ASSERT(rank > 0);
  const at::NoGradGuard no_grad;
  const auto there_are = std::min(rank, svd.S.size(0));
  FactorPair pair{
      svd.V.slice(0, 0, there_are),
      svd.U.slice(1, 0, there_are) * svd.S.slice(0, 0, there_are)};
  if (clamp) {
    clamp_to_quantile(pair, *clamp);
  }
  // Copies even where nothing is added, so that V is not kept whole.
  const auto missing = rank - there_are;
  return {
      at::constant_pad_nd(pair.A, {0, 0, 0, missing}),
      at::constant_pad_nd(pair.B, {0, missing})};
}

FactorPair reduce_rank(const FactorPair& pair, std::int64_t rank) {
  return factors_of(svd_of_product(pair), rank);
}

std::int64_t rank_for_energy(const at::Tensor& S, double share) {
  const at::Tensor energies = S.square().cumsum(0);
  const at::Tensor too_few = energies < share * energies[-1];
  return std::min(too_few.sum().item<std::int64_t>() + 1, S.size(0));
}

}  // namespace peft::detail
