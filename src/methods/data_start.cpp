// SPDX-License-Identifier: Apache-2.0
#include "methods/data_start.h"

#include <algorithm>

#include <ATen/ops/zeros.h>

#include "base/text.h"
#include "config/lora_variants.h"
#include "methods/covariance_factors.h"
#include "methods/finite.h"
#include "methods/gradient_factors.h"
#include "methods/low_rank_factors.h"

namespace peft::detail {

DataStart::DataStart(const LoraConfig& config)
    : corda_(config.corda_config.value_or(CordaConfig{})),
      lora_ga_(config.lora_ga_config.value_or(LoraGAConfig{})) {
  const std::string scheme = scheme_of(config.init_lora_weights);
  if (scheme == "corda" || scheme == "eva" || scheme == "lora_ga") {
    scheme_ = scheme;
  }
}

bool DataStart::applies_to(const WeightLayout& layout) const {
  return is_set() && layout.form == WeightLayout::Form::matrix &&
      !layout.without_operator;
}

void DataStart::check(
    const WeightLayout& layout,
    std::int64_t r,
    const at::Tensor& data,
    const std::string& where,
    Mistakes& mistakes) const {
  if (!applies_to(layout)) {
    return;
  }
  std::vector<std::int64_t> expected = {layout.inputs, layout.inputs};
  if (scheme_ == "eva") {
    expected = {r, layout.inputs};
  } else if (scheme_ == "lora_ga") {
    expected = {layout.outputs, layout.inputs};
    if (layout.inputs_first) {
      std::reverse(expected.begin(), expected.end());
    }
  }
  if (data.sizes() != expected || !data.is_floating_point()) {
    mistakes.add(
        ErrorKind::shape,
        concat(
            where,
            ": init_data holds ",
            data.sizes(),
            ", and init_lora_weights = '",
            scheme_,
            "' needs ",
            at::IntArrayRef(expected),
            "; was it found on another model, or for another scheme?"));
  }
  const std::int64_t directions = scheme_ == "lora_ga" ? 2 * r : r;
  const std::int64_t most = std::min(layout.inputs, layout.outputs);
  if (scheme_ != "eva" && directions > most) {
    mistakes.add(
        ErrorKind::config,
        concat(
            where,
            ": init_lora_weights = '",
            scheme_,
            "' takes ",
            directions,
            " directions of the weight, which has ",
            most,
            "; set r or rank_pattern for this module lower"));
  }
}

FactorPair DataStart::factors(
    const Application& on,
    std::int64_t r,
    double strength) const {
  const at::Tensor data = on.init_data.to(on.base.device(), at::kFloat);
  check_finite(data, "init_data holds values that are not finite");
  const at::Tensor weight =
      as_matrix(on.base.detach(), on.layout).to(at::kFloat);
  if (scheme_ == "corda") {
    return covariance_factors(weight, data, r, strength, corda_.corda_method);
  }
  if (scheme_ == "eva") {
    return {data, at::zeros({on.layout.outputs, r}, data.options())};
  }
  return gradient_factors(
      weight,
      as_matrix(data, on.layout),
      r,
      strength,
      lora_ga_.direction,
      lora_ga_.scale,
      static_cast<double>(lora_ga_.stable_gamma));
}

}  // namespace peft::detail
