// SPDX-License-Identifier: Apache-2.0
// LoRA's configuration: y = W x + s B A dropout(x), s = lora_alpha / r.
// Low-Rank Adaptation, https://arxiv.org/abs/2106.09685
#pragma once

#include "peft/adapter_config.h"
#include "peft/lora_init_configs.h"

namespace peft {

/// PEFT's LoraConfig, field for field. Fields marked (kept) are read, kept and
/// written back; a value in them that asks for something is refused by name.
struct PEFT_API LoraConfig : AdapterConfig {
  std::string peft_type() const override { return "LORA"; }
  std::unique_ptr<AdapterConfig> clone() const override;
  void visit(FieldVisitor& visitor) override;
  void check(detail::Mistakes& mistakes) const override;
  TargetRules target_rules() const override;

  std::int64_t r = 8;         ///< rank, > 0
  double lora_alpha = 8;      ///< finite
  double lora_dropout = 0.0;  ///< in [0, 1)
  /// True for weights stored [in, out]; layers of this library know their own.
  bool fan_in_fan_out = false;
  std::string bias = "none";  ///< "none", "all" or "lora_only"
  bool use_rslora = false;    ///< s = lora_alpha / sqrt(r)
  /// true, false, "gaussian", "orthogonal", "olora", "pissa",
  /// "pissa_niter_4", "mica", "eva", "corda" or "lora_ga"
  InitChoice init_lora_weights = true;
  bool use_dora = false;   ///< magnitudes learned apart from directions
  bool lora_bias = false;  ///< lora_B has a bias too
  OneOrMany<std::int64_t> layers_to_transform;
  OneOrMany<std::string> layers_pattern;
  Patterns<std::int64_t> rank_pattern;
  Patterns<double> alpha_pattern;
  std::vector<std::string> target_parameters;  ///< {"experts.w1"}

  /// The token ids from whose last occurrence on the adapter acts (aLoRA,
  /// task_type "CAUSAL_LM"), not empty; not set: it acts everywhere.
  std::optional<std::vector<std::int64_t>> alora_invocation_tokens;
  /// Tokens whose embeddings are trained, and saved, beside the adapter; each
  /// id once in its list.
  TokenChoice trainable_token_indices;
  /// What is trained beside the adapter stays tied where the model ties it.
  bool ensure_weight_tying = false;

  /// Settings of init_lora_weights = "eva", "corda" and "lora_ga"; beside
  /// another initialisation they are kept and do nothing. Not set, "eva" and
  /// "corda" take the defaults; taking gradients for "lora_ga" needs its own.
  std::optional<EvaConfig> eva_config;
  std::optional<CordaConfig> corda_config;
  std::optional<LoraGAConfig> lora_ga_config;

  JsonText arrow_config;                        ///< (kept)
  JsonText kasa_config;                         ///< (kept)
  JsonText layer_replication;                   ///< (kept)
  JsonText loftq_config{"{}"};                  ///< (kept)
  JsonText megatron_config;                     ///< (kept)
  JsonText megatron_core{"\"megatron.core\""};  ///< (kept)
  JsonText monteclora_config;                   ///< (kept)
  std::int64_t qalora_group_size = 16;          ///< (kept)
  JsonText use_bdlora;                          ///< (kept)
  bool use_qalora = false;                      ///< (kept)
  JsonText velora_config;                       ///< (kept)

 protected:
  /// Every field except rank_pattern, which AdaLoRA reads otherwise.
  void visit_shared(FieldVisitor& visitor);
};

}  // namespace peft
