// SPDX-License-Identifier: Apache-2.0
// LoraConfig's fields and what can be said of their values without a model.
#include "peft/lora_config.h"

#include <cmath>
#include <set>

#include "base/mistakes.h"
#include "base/text.h"
#include "config/json_text.h"
#include "config/lora_variants.h"
#include "config/token_checks.h"

namespace peft {

using detail::concat;
using detail::Mistakes;

std::unique_ptr<AdapterConfig> LoraConfig::clone() const {
  return std::make_unique<LoraConfig>(*this);
}

void LoraConfig::visit(FieldVisitor& visitor) {
  visit_shared(visitor);
  visitor.field("rank_pattern", rank_pattern);
}

void LoraConfig::visit_shared(FieldVisitor& visitor) {
  AdapterConfig::visit(visitor);
  visitor.field("r", r);
  visitor.field("lora_alpha", lora_alpha);
  visitor.field("lora_dropout", lora_dropout);
  visitor.field("fan_in_fan_out", fan_in_fan_out);
  visitor.field("bias", bias);
  visitor.field("use_rslora", use_rslora);
  visitor.field("init_lora_weights", init_lora_weights);
  visitor.field("layers_to_transform", layers_to_transform);
  visitor.field("layers_pattern", layers_pattern);
  visitor.field("alpha_pattern", alpha_pattern);
  visitor.field("target_parameters", target_parameters);
  visitor.field("alora_invocation_tokens", alora_invocation_tokens);
  visitor.field("arrow_config", arrow_config);
  visitor.nested("corda_config", corda_config);
  visitor.field("ensure_weight_tying", ensure_weight_tying);
  visitor.nested("eva_config", eva_config);
  visitor.field("kasa_config", kasa_config);
  visitor.field("layer_replication", layer_replication);
  visitor.field("loftq_config", loftq_config);
  visitor.field("lora_bias", lora_bias);
  visitor.nested("lora_ga_config", lora_ga_config);
  visitor.field("megatron_config", megatron_config);
  visitor.field("megatron_core", megatron_core);
  visitor.field("monteclora_config", monteclora_config);
  visitor.field("qalora_group_size", qalora_group_size);
  visitor.field("trainable_token_indices", trainable_token_indices);
  visitor.field("use_bdlora", use_bdlora);
  visitor.field("use_dora", use_dora);
  visitor.field("use_qalora", use_qalora);
  visitor.field("velora_config", velora_config);
}

TargetRules LoraConfig::target_rules() const {
  return {
      layers_to_transform.values(),
      layers_pattern.values(),
      rank_pattern,
      alpha_pattern,
      target_parameters,
      bias,
      trainable_token_indices,
      ensure_weight_tying};
}

namespace {

void check_numbers(const LoraConfig& config, Mistakes& mistakes) {
  if (config.r <= 0) {
    mistakes.add(
        ErrorKind::config,
        concat("r is ", config.r, "; the rank must be at least 1"));
  }
  if (!std::isfinite(config.lora_alpha)) {
    mistakes.add(
        ErrorKind::config,
        concat("lora_alpha is ", config.lora_alpha, "; it must be finite"));
  }
  // Written so that NaN fails too. 1 lets nothing through, and Python PEFT
  // writes it all the same.
  const bool is_probability =
      config.lora_dropout >= 0 && config.lora_dropout <= 1;
  if (!is_probability || (config.lora_dropout == 1 && !config.inference_mode)) {
    mistakes.add(
        ErrorKind::config,
        concat(
            "lora_dropout is ",
            config.lora_dropout,
            "; it is a probability, from 0 up to but not including 1"));
  }
  if (config.bias != "none" && config.bias != "all" &&
      config.bias != "lora_only") {
    mistakes.add(
        ErrorKind::config,
        concat(
            "bias is '",
            config.bias,
            "'; it must be 'none', 'all' or 'lora_only'"));
  }
}

void check_layers(const LoraConfig& config, Mistakes& mistakes) {
  const auto needs_list = [&](const char* name, bool given) {
    if (given && config.target_modules.is_pattern()) {
      mistakes.add(
          ErrorKind::config,
          concat(
              name,
              " works only with a list in target_modules, which is the "
              "pattern '",
              config.target_modules.pattern(),
              "'; say it in the pattern, or give a list"));
    }
  };
  needs_list("layers_to_transform", !config.layers_to_transform.empty());
  needs_list("layers_pattern", !config.layers_pattern.empty());
  if (!config.layers_pattern.empty() && config.layers_to_transform.is_none()) {
    mistakes.add(
        ErrorKind::config,
        "layers_pattern is given without layers_to_transform; give the layer "
        "indexes as well, or neither");
  }
  for (const std::int64_t index : config.layers_to_transform) {
    if (index < 0 && !config.inference_mode) {
      mistakes.add(
          ErrorKind::config,
          concat(
              "layers_to_transform holds ",
              index,
              "; layer indexes count from 0"));
    }
  }
}

template <class Value, class Good>
void check_pattern(
    const char* name,
    const Patterns<Value>& pattern,
    Good good,
    const char* must,
    Mistakes& mistakes) {
  std::set<std::string> seen;
  for (const auto& [key, value] : pattern) {
    if (!good(value)) {
      mistakes.add(
          ErrorKind::config,
          concat(name, " gives '", key, "' the value ", value, "; ", must));
    }
    if (!seen.insert(key).second) {
      mistakes.add(
          ErrorKind::config, concat(name, " has the key '", key, "' twice"));
    }
  }
}

}  // namespace

void LoraConfig::check(Mistakes& mistakes) const {
  AdapterConfig::check(mistakes);
  check_numbers(*this, mistakes);
  check_layers(*this, mistakes);
  check_pattern(
      "rank_pattern",
      rank_pattern,
      [](std::int64_t rank) { return rank > 0; },
      "a rank must be at least 1",
      mistakes);
  check_pattern(
      "alpha_pattern",
      alpha_pattern,
      [](double alpha) { return std::isfinite(alpha); },
      "it must be finite",
      mistakes);
  detail::check_combinations(*this, mistakes);
  detail::check_init_scheme(*this, mistakes);
  detail::check_init_configs(*this, mistakes);
  detail::check_tokens(*this, mistakes);
  detail::check_variants(*this, mistakes);
}

}  // namespace peft
