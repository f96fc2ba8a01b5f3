// SPDX-License-Identifier: Apache-2.0
// Fields of the configs of LoRA's initialisations and what PEFT says of their
// values, here or where it uses them.
#include "peft/lora_init_configs.h"

#include <algorithm>
#include <vector>

#include "base/text.h"
#include "config/json_text.h"
#include "config/lora_variants.h"

namespace peft {

void EvaConfig::visit(FieldVisitor& visitor) {
  visitor.field("rho", rho);
  visitor.field("tau", tau);
  visitor.field("use_label_mask", use_label_mask);
  visitor.field("label_mask_value", label_mask_value);
  visitor.field("whiten", whiten);
  visitor.field("adjust_scaling_factors", adjust_scaling_factors);
}

void CordaConfig::visit(FieldVisitor& visitor) {
  visitor.field("cache_file", cache_file);
  visitor.field("covariance_file", covariance_file);
  visitor.field("corda_method", corda_method);
  visitor.field("verbose", verbose);
  visitor.field("use_float16_for_covariance", use_float16_for_covariance);
  visitor.field("prune_temporary_fields", prune_temporary_fields);
}

void LoraGAConfig::visit(FieldVisitor& visitor) {
  visitor.field("direction", direction);
  visitor.field("scale", scale);
  visitor.field("stable_gamma", stable_gamma);
}

namespace detail {
namespace {

// `must` ends "eva_config.rho is 0.5; ".
template <class Value>
void expect(
    bool is_good,
    const char* name,
    const Value& value,
    const char* must,
    Mistakes& mistakes) {
  if (!is_good) {
    mistakes.add(ErrorKind::config, concat(name, " is ", value, "; ", must));
  }
}

void expect_one_of(
    const std::vector<std::string>& names,
    const char* field,
    const std::string& value,
    Mistakes& mistakes) {
  if (std::find(names.begin(), names.end(), value) == names.end()) {
    mistakes.add(
        ErrorKind::config,
        concat(
            field,
            " is '",
            value,
            "'",
            did_you_mean(value, names),
            "; it must be one of ",
            list_names(names)));
  }
}

// What the passes over data ask for, before a training.
void check_values(const LoraConfig& config, Mistakes& mistakes) {
  if (const auto& eva = config.eva_config) {
    expect(  // rho and tau so that NaN fails too
        eva->rho >= 1,
        "eva_config.rho",
        eva->rho,
        "it must be at least 1, which redistributes no ranks",
        mistakes);
    expect(
        eva->tau >= 0 && eva->tau <= 1,
        "eva_config.tau",
        eva->tau,
        "a cosine to wait for lies between 0 and 1",
        mistakes);
  }
  if (const auto& corda = config.corda_config) {
    expect_one_of(
        {"ipm", "kpm"},
        "corda_config.corda_method",
        corda->corda_method,
        mistakes);
  }
  if (const auto& lora_ga = config.lora_ga_config) {
    expect_one_of(
        {"ArBr", "A2rBr", "ArB2r", "random"},
        "lora_ga_config.direction",
        lora_ga->direction,
        mistakes);
    expect_one_of(
        {"stable", "weight_svd", "gd_scale", "unit"},
        "lora_ga_config.scale",
        lora_ga->scale,
        mistakes);
    expect(
        lora_ga->stable_gamma > 0,
        "lora_ga_config.stable_gamma",
        lora_ga->stable_gamma,
        "it must be at least 1, for a root of it is taken",
        mistakes);
  }
}

}  // namespace

void check_init_configs(const LoraConfig& config, Mistakes& mistakes) {
  if (!config.inference_mode) {
    check_values(config, mistakes);
  }
  const auto check_fields = [&](const char* path, const auto& inner) {
    if (inner) {
      check_unknown_fields(path, inner->unknown_fields, mistakes);
    }
  };
  check_fields("eva_config.", config.eva_config);
  check_fields("corda_config.", config.corda_config);
  check_fields("lora_ga_config.", config.lora_ga_config);
}

}  // namespace detail
}  // namespace peft
