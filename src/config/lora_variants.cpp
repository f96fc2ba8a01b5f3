// SPDX-License-Identifier: Apache-2.0
#include "config/lora_variants.h"

#include <algorithm>
#include <cctype>
#include <vector>

#include "base/text.h"
#include "config/json_text.h"

namespace peft::detail {
namespace {

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) {
    return static_cast<char>(std::tolower(c));
  });
  return text;
}

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

}  // namespace

void check_init_scheme(const LoraConfig& config, Mistakes& mistakes) {
  static const std::vector<std::string> not_built = {
      "pissa",
      "pissa_niter_N",
      "olora",
      "orthogonal",
      "eva",
      "corda",
      "loftq",
      "lora_ga",
      "mica"};
  if (!config.init_lora_weights.is_named()) {
    return;
  }
  const std::string& given = config.init_lora_weights.scheme();
  const std::string scheme = lower_case(given);
  if (scheme == "gaussian") {
    return;
  }
  const bool known = scheme.starts_with("pissa_niter_") ||
      std::find(not_built.begin(), not_built.end(), scheme) != not_built.end();
  if (known) {
    mistakes.add(
        ErrorKind::unsupported,
        concat(
            "init_lora_weights = '",
            given,
            "' is not built yet; use true, false or 'gaussian'"));
    return;
  }
  std::vector<std::string> names = not_built;
  names.insert(names.begin(), "gaussian");
  mistakes.add(
      ErrorKind::config,
      concat(
          "init_lora_weights is '",
          given,
          "', which PEFT does not know",
          did_you_mean(scheme, names),
          "; use true, false or 'gaussian'"));
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
  flag("use_dora", config.use_dora);
  flag("lora_bias", config.lora_bias);
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
