// SPDX-License-Identifier: Apache-2.0
// AdaLoRA's configuration: LoRA as singular values, whose number is shared out
// among the weights while training.
// https://arxiv.org/abs/2303.10512
#pragma once

#include "peft/lora_config.h"

namespace peft {

/// PEFT's AdaLoraConfig, field for field. Of LoRA's fields, r, alpha_pattern
/// and use_rslora do nothing here, and lora_alpha is not divided by r.
struct PEFT_API AdaLoraConfig : LoraConfig {
  std::string peft_type() const override { return "ADALORA"; }
  std::unique_ptr<AdapterConfig> clone() const override;
  void visit(FieldVisitor& visitor) override;
  void check(detail::Mistakes& mistakes) const override;
  TargetRules target_rules() const override;

  std::int64_t target_r = 8;     ///< average rank of a weight at the end
  std::int64_t init_r = 12;      ///< rank of every weight at the start
  std::int64_t tinit = 0;        ///< steps before ranks begin to go
  std::int64_t tfinal = 0;       ///< steps at the end with the ranks fixed
  std::int64_t deltaT = 1;       ///< steps between two choices of ranks
  double beta1 = 0.85;           ///< smoothing of the sensitivity, in (0, 1)
  double beta2 = 0.85;           ///< smoothing of its uncertainty, in (0, 1)
  double orth_reg_weight = 0.5;  ///< of the orthogonal regularization, >= 0
  std::optional<std::int64_t> total_step;  ///< steps; training needs it
  /// Which of init_r ranks are left, by "<module>.lora_E". Filled by training;
  /// takes the place of LoraConfig::rank_pattern.
  Patterns<std::vector<bool>> rank_pattern;
};

}  // namespace peft
