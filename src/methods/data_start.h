// SPDX-License-Identifier: Apache-2.0
// LoRA's factors from what a pass over data found for a weight:
//
//   scheme     data                               factors
//   "corda"    covariance of its inputs [in, in]  covariance_factors.h
//   "eva"      directions of its inputs [r, in]   A is the data, B = 0
//   "lora_ga"  its mean gradient, W's own shape   gradient_factors.h
//
// Linear layers only, as in PEFT; the others start as usual.
#pragma once

#include <string>

#include "methods/factor_pair.h"
#include "methods/method.h"
#include "peft/lora_config.h"

namespace peft::detail {

class DataStart {
 public:
  /// No scheme of `config`'s that starts from data: is_set() is false.
  explicit DataStart(const LoraConfig& config);

  bool is_set() const { return !scheme_.empty(); }
  bool applies_to(const WeightLayout& layout) const;

  /// Adds a mistake when `data` does not fit such a weight and rank.
  void check(
      const WeightLayout& layout,
      std::int64_t r,
      const at::Tensor& data,
      const std::string& where,
      Mistakes& mistakes) const;

  /// From on.init_data, which was checked. Throws Error (input) for data that
  /// is not finite.
  FactorPair factors(const Application& on, std::int64_t r, double strength)
      const;

 private:
  std::string scheme_;
  CordaConfig corda_;
  LoraGAConfig lora_ga_;
};

}  // namespace peft::detail
