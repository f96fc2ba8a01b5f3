// SPDX-License-Identifier: Apache-2.0
#include "methods/lora_initialisation.h"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include "base/text.h"
#include "config/lora_variants.h"
#include "methods/factor_pair.h"
#include "methods/low_rank_factors.h"
#include "methods/low_rank_svd.h"

namespace peft::detail {
namespace {

using Form = WeightLayout::Form;

bool is_pissa(const std::string& scheme) {
  return scheme == "pissa" || scheme.starts_with(pissa_niter);
}

bool reads_the_weight(const std::string& scheme) {
  return is_pissa(scheme) || scheme == "olora" || scheme == "mica";
}

FactorPair pissa(
    const std::string& scheme,
    const at::Tensor& weight,
    std::int64_t r,
    double strength) {
  const auto by_steps = [&] {
    const auto steps = std::stoll(scheme.substr(pissa_niter.size()));
    // Not low_rank_svd, which would start wide weights in another way: a saved
    // adapter meets the factors again that it was trained with.
    return subspace_svd(weight, r, steps, seeded(0));
  };
  const Svd svd = scheme == "pissa" ? whole_svd(weight) : by_steps();
  const at::Tensor root = (svd.S.slice(0, 0, r) / strength).sqrt();
  return {
      root.unsqueeze(1) * svd.V.slice(0, 0, r),
      svd.U.slice(1, 0, r) * root.unsqueeze(0)};
}

FactorPair olora(const at::Tensor& weight, std::int64_t r) {
  const auto [Q, R] = at::linalg_qr(weight);
  return {R.slice(0, 0, r), Q.slice(1, 0, r)};
}

FactorPair mica(const at::Tensor& weight, std::int64_t r) {
  const at::Tensor U = whole_svd(weight).U;
  return {
      at::zeros({r, weight.size(1)}, weight.options()),
      U.slice(1, U.size(1) - r)};
}

FactorPair orthogonal(
    std::int64_t r,
    std::int64_t inputs,
    std::int64_t outputs,
    const at::TensorOptions& options) {
  const at::Tensor Q = std::get<0>(at::linalg_qr(at::randn({r, r}, options)));
  const at::Tensor even = Q.slice(0, 0, r, 2);
  const at::Tensor odd = Q.slice(0, 1, r, 2);
  return {
      at::matmul(at::randn({inputs, r / 2}, options), even).t() / 10,
      at::matmul(at::randn({r / 2, outputs}, options).t(), odd) / 10};
}

// kaiming_uniform_(a = sqrt(5)), what nn.Linear and nn.ConvNd start with:
// uniform within 1 / sqrt(fan in).
void fill_as_linear(const at::Tensor& factor) {
  const auto fan_in =
      factor.numel() / std::max<std::int64_t>(1, factor.size(0));
  const double bound =
      1.0 / std::sqrt(static_cast<double>(std::max<std::int64_t>(1, fan_in)));
  factor.uniform_(-bound, bound);
}

// What a scheme that reads the weight makes of it.
FactorPair take_apart(
    const std::string& scheme,
    const at::Tensor& weight,
    std::int64_t r,
    double strength) {
  if (is_pissa(scheme)) {
    return pissa(scheme, weight, r, strength);
  }
  return scheme == "olora" ? olora(weight, r) : mica(weight, r);
}

void check_rank(
    const std::string& scheme,
    std::int64_t r,
    const WeightLayout& layout,
    const std::string& where,
    Mistakes& mistakes) {
  std::int64_t reads = layout.inputs;
  for (const auto size : layout.window) {
    reads *= size;
  }
  const auto most = std::min(layout.outputs, reads);
  if (r > most) {
    mistakes.add(
        ErrorKind::config,
        concat(
            where,
            ": init_lora_weights = '",
            scheme,
            "' takes r directions of the weight, which has ",
            most,
            "; r = ",
            r,
            " is too large, set r or rank_pattern for this module"));
  }
}

}  // namespace

void check_initialisation(
    const InitChoice& init,
    std::int64_t r,
    const WeightLayout& layout,
    const std::string& where,
    Mistakes& mistakes) {
  const std::string scheme = scheme_of(init);
  if (scheme == "orthogonal" && r % 2 != 0 && layout.form != Form::table) {
    mistakes.add(
        ErrorKind::config,
        concat(
            where,
            ": init_lora_weights = 'orthogonal' needs an even rank, r is ",
            r));
  }
  if (!reads_the_weight(scheme) ||
      (layout.form == Form::table && scheme != "mica")) {
    return;
  }
  if (layout.form == Form::stack || layout.groups != 1) {
    mistakes.add(
        ErrorKind::unsupported,
        concat(
            where,
            ": init_lora_weights = '",
            scheme,
            "' needs one matrix to take apart, found ",
            layout.describe(),
            "; use true, 'gaussian' or 'orthogonal'"));
    return;
  }
  check_rank(scheme, r, layout, where, mistakes);
}

bool starts_with_frozen_B(const InitChoice& init) {
  return scheme_of(init) == "mica";
}

void initialise_factors(
    const InitChoice& init,
    const at::Tensor& A,
    const at::Tensor& B,
    const Application& on,
    double strength) {
  const std::string scheme = scheme_of(init);
  const bool is_table = on.layout.form == Form::table;
  const bool is_random = !init.is_default() && !init.is_named();
  const auto fill = [&](const FactorPair& pair) {
    A.copy_(pair.A.reshape(A.sizes()));
    B.copy_(pair.B.reshape(B.sizes()));
  };
  if (reads_the_weight(scheme) && (!is_table || scheme == "mica")) {
    const at::Tensor weight = exact(as_matrix(on.base.detach(), on.layout));
    fill(take_apart(scheme, weight, A.size(0), strength));
  } else if (is_table) {  // PEFT starts tables the other way round
    A.zero_();
    B.normal_();
    if (is_random) {
      A.normal_();
    }
  } else if (scheme == "orthogonal") {
    fill(orthogonal(
        A.size(0),
        A.numel() / A.size(0),
        B.size(0),
        A.options().dtype(exact_dtype(A.scalar_type()))));
  } else {
    if (scheme == "gaussian") {
      const auto r = A.size(0) / on.layout.count;
      A.normal_(0, 1.0 / static_cast<double>(r));
    } else {
      fill_as_linear(A);
    }
    B.zero_();
    if (is_random) {
      fill_as_linear(B);
    }
  }
}

}  // namespace peft::detail
