// SPDX-License-Identifier: Apache-2.0
// Settings of LoRA's initialisations from data, PEFT's EvaConfig, CordaConfig
// and LoraGAConfig, field for field. Plain aggregates:
//   config.init_lora_weights = "eva";
//   config.eva_config = peft::EvaConfig{.rho = 1.5};
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "peft/config_values.h"
#include "peft/export.h"

namespace peft {

class FieldVisitor;

/// init_lora_weights = "eva": A from the directions in which a layer's inputs
/// vary most, ranks shared out among the layers by how much they explain.
/// Explained Variance Adaptation, https://arxiv.org/abs/2410.07170
struct PEFT_API EvaConfig {
  /// A layer gets at most r * rho ranks, >= 1; 1 leaves every layer its r.
  double rho = 2.0;
  /// A layer's SVD is done once the cosine between a direction and the same
  /// direction one step before is above this, in [0, 1].
  double tau = 0.99;
  /// Leave positions out whose label is label_mask_value. With few positions
  /// left in a batch the SVD gets unstable; turn it off then.
  bool use_label_mask = true;
  std::int64_t label_mask_value = -100;
  bool whiten = false;  ///< scale the directions to equal variance
  /// Change lora_alpha with the ranks, so that gradients keep their scale.
  bool adjust_scaling_factors = true;
  UnknownFields unknown_fields = {};

  void visit(FieldVisitor& visitor);
  friend bool operator==(const EvaConfig&, const EvaConfig&) = default;
};

/// init_lora_weights = "corda": factors of the weight, split along what its
/// inputs look like on some data.
/// Context-Oriented Decomposition Adaptation, https://arxiv.org/abs/2406.05223
struct PEFT_API CordaConfig {
  /// Where the decomposition is kept for next time; small.
  std::optional<std::string> cache_file = {};
  /// Where the covariances are kept, for other ranks from the same data;
  /// about as large as the model.
  std::optional<std::string> covariance_file = {};
  /// "ipm", which learns the task of the data faster, or "kpm", which
  /// preserves what the model knows of the data.
  std::string corda_method = "ipm";
  bool verbose = false;  ///< tell of the progress
  /// Half the memory for covariances, at the risk of instability.
  bool use_float16_for_covariance = false;
  bool prune_temporary_fields = true;  ///< free what preparing has left
  UnknownFields unknown_fields = {};

  void visit(FieldVisitor& visitor);
  friend bool operator==(const CordaConfig&, const CordaConfig&) = default;
};

/// init_lora_weights = "lora_ga": factors of the gradient, so that the first
/// steps go where full fine-tuning goes.
/// LoRA-GA, https://arxiv.org/abs/2407.05000
struct PEFT_API LoraGAConfig {
  /// Which of the gradient's first 2r singular vectors, counted from 0, become
  /// A and B: "ArBr" (odd ones A, even ones B), "A2rBr" (A the second r, B the
  /// first), "ArB2r" (A the first r, B the second) or "random".
  std::string direction = "ArB2r";
  /// How large they are: "stable" (by stable_gamma), "weight_svd" (as the
  /// weight's singular values), "gd_scale" (as a step of gradient descent) or
  /// "unit" (as they are).
  std::string scale = "stable";
  std::int64_t stable_gamma = 16;  ///< > 0
  UnknownFields unknown_fields = {};

  void visit(FieldVisitor& visitor);
  friend bool operator==(const LoraGAConfig&, const LoraGAConfig&) = default;
};

}  // namespace peft
