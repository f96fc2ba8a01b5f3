// SPDX-License-Identifier: Apache-2.0
#include "config/lora_variants.h"

#include <algorithm>
#include <cctype>
#include <vector>

#include "base/text.h"
#include "config/json_text.h"

namespace peft::detail {
namespace {

void refuse(
    Mistakes& mistakes,
    const std::string& name,
    const std::string& value) {
  constexpr std::size_t most = 60;
  const bool whole = value.size() <= most;
  mistakes.add(
      ErrorKind::unsupported,
      concat(
          name,
          " = ",
          whole ? value : value.substr(0, most) + "...",
          " is not built yet; leave it at its default"));
}

// Whether a JSON field asks for anything. Sub-configs do when they are there
// at all, for {} means all their defaults; plain values when they are truthy.
enum class AsksWhen { present, truthy };

void check_json_field(
    const char* name,
    const JsonText& json,
    AsksWhen when,
    Mistakes& mistakes) {
  if (is_broken(json)) {
    mistakes.add(ErrorKind::config, concat(name, " is not JSON text"));
    return;
  }
  const bool present = !json.is_null() && json.text != "false";
  if (when == AsksWhen::present ? present : is_truthy(json)) {
    refuse(mistakes, name, json.text);
  }
}

// B and A take sqrt(S / s).
void check_pissa(
    const LoraConfig& config,
    const std::string& scheme,
    Mistakes& mistakes) {
  if (scheme.starts_with("pissa") && !(config.lora_alpha > 0)) {
    mistakes.add(
        ErrorKind::config,
        concat(
            "init_lora_weights = '",
            scheme,
            "' needs lora_alpha > 0, found ",
            config.lora_alpha));
  }
}

}  // namespace

std::string scheme_of(const InitChoice& init) {
  std::string scheme = init.scheme();
  std::transform(
      scheme.begin(), scheme.end(), scheme.begin(), [](unsigned char c) {
        return static_cast<char>(std::tolower(c));
      });
  return scheme;
}

void check_init_scheme(const LoraConfig& config, Mistakes& mistakes) {
  static const std::vector<std::string> not_built = {
      "eva", "corda", "loftq", "lora_ga"};
  static const std::vector<std::string> built = {
      "gaussian", "orthogonal", "olora", "pissa", "pissa_niter_4", "mica"};
  if (!config.init_lora_weights.is_named()) {
    return;
  }
  const std::string& given = config.init_lora_weights.scheme();
  const std::string scheme = scheme_of(config.init_lora_weights);
  if (std::find(built.begin(), built.end(), scheme) != built.end()) {
    check_pissa(config, scheme, mistakes);
    return;
  }
  if (scheme.starts_with(pissa_niter)) {
    const std::string steps = scheme.substr(pissa_niter.size());
    if (!steps.empty() && steps.size() < 5 &&
        std::all_of(steps.begin(), steps.end(), [](unsigned char c) {
          return std::isdigit(c);
        })) {
      check_pissa(config, scheme, mistakes);
      return;
    }
    mistakes.add(
        ErrorKind::config,
        concat(
            "init_lora_weights is '",
            given,
            "'; say how many steps with a number, as in 'pissa_niter_4'"));
    return;
  }
  if (std::find(not_built.begin(), not_built.end(), scheme) !=
      not_built.end()) {
    mistakes.add(
        ErrorKind::unsupported,
        concat(
            "init_lora_weights = '",
            given,
            "' is not built yet; use true, false, or one of ",
            list_names(built, built.size())));
    return;
  }
  std::vector<std::string> names = not_built;
  names.insert(names.begin(), built.begin(), built.end());
  mistakes.add(
      ErrorKind::config,
      concat(
          "init_lora_weights is '",
          given,
          "', which PEFT does not know",
          did_you_mean(scheme, names),
          "; use true, false, or one of ",
          list_names(built, built.size())));
}

void check_variants(const LoraConfig& config, Mistakes& mistakes) {
  const auto flag = [&](const char* name, bool value) {
    if (value) {
      refuse(mistakes, name, "true");
    }
  };
  const auto json =
      [&](const char* name, const JsonText& value, AsksWhen when) {
        check_json_field(name, value, when, mistakes);
      };
  flag("use_qalora", config.use_qalora);
  flag("ensure_weight_tying", config.ensure_weight_tying);
  using enum AsksWhen;
  json("arrow_config", config.arrow_config, present);
  json("kasa_config", config.kasa_config, present);
  json("monteclora_config", config.monteclora_config, present);
  json("use_bdlora", config.use_bdlora, present);
  json("velora_config", config.velora_config, present);
  json("alora_invocation_tokens", config.alora_invocation_tokens, truthy);
  json("layer_replication", config.layer_replication, truthy);
  json("megatron_config", config.megatron_config, truthy);
  json("trainable_token_indices", config.trainable_token_indices, truthy);

  // PEFT looks at these only beside an initialisation, which is refused
  // above, or (megatron_core) beside megatron_config: alone they ask nothing.
  const std::pair<const char*, const JsonText*> silent[] = {
      {"corda_config", &config.corda_config},
      {"eva_config", &config.eva_config},
      {"loftq_config", &config.loftq_config},
      {"lora_ga_config", &config.lora_ga_config},
      {"megatron_core", &config.megatron_core}};
  for (const auto& [name, value] : silent) {
    if (is_broken(*value)) {
      mistakes.add(ErrorKind::config, concat(name, " is not JSON text"));
    }
  }
}

}  // namespace peft::detail
