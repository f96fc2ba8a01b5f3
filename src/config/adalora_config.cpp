// SPDX-License-Identifier: Apache-2.0
// AdaLoraConfig's fields and what can be said of their values without a model.
#include "peft/adalora_config.h"

#include "base/mistakes.h"
#include "base/text.h"
#include "config/json_text.h"

namespace peft {

using detail::concat;
using detail::Mistakes;

std::unique_ptr<AdapterConfig> AdaLoraConfig::clone() const {
  return std::make_unique<AdaLoraConfig>(*this);
}

void AdaLoraConfig::visit(FieldVisitor& visitor) {
  visit_shared(visitor);
  visitor.field("rank_pattern", rank_pattern);
  visitor.field("target_r", target_r);
  visitor.field("init_r", init_r);
  visitor.field("tinit", tinit);
  visitor.field("tfinal", tfinal);
  visitor.field("deltaT", deltaT);
  visitor.field("beta1", beta1);
  visitor.field("beta2", beta2);
  visitor.field("orth_reg_weight", orth_reg_weight);
  visitor.field("total_step", total_step);
}

TargetRules AdaLoraConfig::target_rules() const {
  TargetRules rules = LoraConfig::target_rules();
  rules.rank_pattern.clear();
  rules.alpha_pattern.clear();
  return rules;
}

namespace {

// What only a training asks for: a file that was written without is as good.
void check_training(const AdaLoraConfig& config, Mistakes& mistakes) {
  const auto at_least = [&](const char* name, auto value, int least) {
    if (!(value >= least)) {
      mistakes.add(
          ErrorKind::config,
          concat(name, " is ", value, "; it must be at least ", least));
    }
  };
  at_least("init_r", config.init_r, 1);
  at_least("target_r", config.target_r, 0);
  at_least("tinit", config.tinit, 0);
  at_least("tfinal", config.tfinal, 0);
  at_least("deltaT", config.deltaT, 1);
  at_least("orth_reg_weight", config.orth_reg_weight, 0);
  if (config.target_r > config.init_r) {
    mistakes.add(
        ErrorKind::config,
        concat(
            "target_r = ",
            config.target_r,
            " is above init_r = ",
            config.init_r,
            "; ranks only go down"));
  }
  if (!config.total_step || *config.total_step <= 0) {
    mistakes.add(
        ErrorKind::config,
        "total_step is not set: AdaLoRA plans its ranks over the whole "
        "training, give the number of steps (> 0)");
  } else if (
      config.tfinal >= 0 &&
      config.tinit >= *config.total_step - config.tfinal) {
    mistakes.add(
        ErrorKind::config,
        concat(
            "tinit = ",
            config.tinit,
            " and tfinal = ",
            config.tfinal,
            " leave none of total_step = ",
            *config.total_step,
            " steps in which ranks could change; make them smaller or train "
            "longer"));
  }
  for (const auto& [name, value] :
       {std::pair("beta1", config.beta1), std::pair("beta2", config.beta2)}) {
    if (!(value > 0 && value < 1)) {
      mistakes.add(
          ErrorKind::config,
          concat(name, " is ", value, "; it must lie between 0 and 1"));
    }
  }
  if (config.init_lora_weights.is_named()) {
    mistakes.add(
        ErrorKind::config,
        "AdaLoRA does not work with a named init_lora_weights; use true, or "
        "false");
  }
  for (const auto& [key, kept] : config.rank_pattern) {
    if (static_cast<std::int64_t>(kept.size()) != config.init_r) {
      mistakes.add(
          ErrorKind::config,
          concat(
              "rank_pattern['",
              key,
              "'] speaks of ",
              kept.size(),
              " ranks, init_r is ",
              config.init_r));
    }
  }
}

}  // namespace

void AdaLoraConfig::check(Mistakes& mistakes) const {
  LoraConfig shared = *this;  // without what means nothing here
  shared.r = 1;
  shared.alpha_pattern = {};
  if (init_lora_weights.is_named()) {
    shared.init_lora_weights = true;
  }
  shared.LoraConfig::check(mistakes);
  if (init_r < 0) {
    mistakes.add(
        ErrorKind::config,
        concat("init_r is ", init_r, "; a rank is not negative"));
  }
  if (!inference_mode) {
    check_training(*this, mistakes);
  }
  const auto refuse = [&](bool is_asked, const char* what) {
    if (is_asked) {
      mistakes.add(
          ErrorKind::config, concat("AdaLoRA does not work with ", what));
    }
  };
  refuse(use_dora, "use_dora");
  refuse(lora_bias, "lora_bias");
  refuse(alora_invocation_tokens.has_value(), "alora_invocation_tokens");
  refuse(detail::is_truthy(loftq_config), "loftq_config");
  refuse(!target_parameters.empty(), "target_parameters");
}

}  // namespace peft
