// SPDX-License-Identifier: Apache-2.0
#include "config/lora_variants.h"

#include <algorithm>
#include <cctype>
#include <vector>

#include "base/text.h"
#include "config/json_text.h"

namespace peft::detail {
namespace {

constexpr const char* not_built = "is not built yet; leave it at its default";

void refuse(
    Mistakes& mistakes,
    const std::string& name,
    const std::string& value,
    const char* reason = not_built) {
  constexpr std::size_t most = 60;
  const bool whole = value.size() <= most;
  mistakes.add(
      ErrorKind::unsupported,
      concat(
          name,
          " = ",
          whole ? value : value.substr(0, most) + "...",
          " ",
          reason));
}

// Whether a JSON field asks for anything. Sub-configs do when they are there
// at all, for {} means all their defaults; plain values when they are truthy.
enum class AsksWhen { present, truthy };

void check_json_field(
    const char* name,
    const JsonText& json,
    AsksWhen when,
    Mistakes& mistakes,
    const char* reason = not_built) {
  if (is_broken(json)) {
    mistakes.add(ErrorKind::config, concat(name, " is not JSON text"));
    return;
  }
  const bool present = !json.is_null() && json.text != "false";
  if (when == AsksWhen::present ? present : is_truthy(json)) {
    refuse(mistakes, name, json.text, reason);
  }
}

// B and A take sqrt(S / s) in these.
void check_alpha(
    const LoraConfig& config,
    const std::string& scheme,
    Mistakes& mistakes) {
  if ((scheme.starts_with("pissa") || scheme == "corda") &&
      !(config.lora_alpha > 0)) {
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

bool takes_weight_apart(const InitChoice& init) {
  const std::string scheme = scheme_of(init);
  return scheme == "olora" || scheme == "corda" || scheme == "lora_ga" ||
      scheme == "pissa" || scheme.starts_with(pissa_niter);
}

void check_init_scheme(const LoraConfig& config, Mistakes& mistakes) {
  static const std::vector<std::string> built = {
      "gaussian",
      "orthogonal",
      "olora",
      "pissa",
      "pissa_niter_4",
      "mica",
      "eva",
      "corda",
      "lora_ga"};
  if (!config.init_lora_weights.is_named()) {
    return;
  }
  const std::string& given = config.init_lora_weights.scheme();
  const std::string scheme = scheme_of(config.init_lora_weights);
  if (std::find(built.begin(), built.end(), scheme) != built.end()) {
    check_alpha(config, scheme, mistakes);
    return;
  }
  if (scheme.starts_with(pissa_niter)) {
    const std::string steps = scheme.substr(pissa_niter.size());
    if (!steps.empty() && steps.size() < 5 &&
        std::all_of(steps.begin(), steps.end(), [](unsigned char c) {
          return std::isdigit(c);
        })) {
      check_alpha(config, scheme, mistakes);
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
  if (scheme == "loftq") {
    mistakes.add(
        ErrorKind::unsupported,
        concat(
            "init_lora_weights = '",
            given,
            "' starts from a quantised base weight (bitsandbytes, 4 bit), "
            "which libtorch does not have; use 'pissa' or true"));
    return;
  }
  mistakes.add(
      ErrorKind::config,
      concat(
          "init_lora_weights is '",
          given,
          "', which PEFT does not know",
          did_you_mean(scheme, built),
          "; use true, false, or one of ",
          list_names(built, built.size())));
}

void check_variants(const LoraConfig& config, Mistakes& mistakes) {
  if (config.use_qalora) {
    refuse(mistakes, "use_qalora", "true");
  }
  const auto json =
      [&](const char* name, const JsonText& value, AsksWhen when) {
        check_json_field(name, value, when, mistakes);
      };
  using enum AsksWhen;
  json("arrow_config", config.arrow_config, present);
  json("kasa_config", config.kasa_config, present);
  json("monteclora_config", config.monteclora_config, present);
  json("use_bdlora", config.use_bdlora, present);
  json("velora_config", config.velora_config, present);
  json("megatron_config", config.megatron_config, truthy);
  check_json_field(
      "layer_replication",
      config.layer_replication,
      truthy,
      mistakes,
      "repeats layers of a model by re-wiring its Python list of layers, "
      "which a compiled forward does not have; build the deeper model, and "
      "load an adapter that was trained so into it, or leave this out to "
      "inject a new one");

  // PEFT looks at these only beside init_lora_weights = "loftq", which is
  // refused above, or beside megatron_config: alone they ask nothing.
  for (const auto& [name, value] :
       {std::pair("loftq_config", &config.loftq_config),
        std::pair("megatron_core", &config.megatron_core)}) {
    if (is_broken(*value)) {
      mistakes.add(ErrorKind::config, concat(name, " is not JSON text"));
    }
  }
}

void check_beside_tensors(const AdapterConfig& config, Mistakes& mistakes) {
  const auto beside = config.clone();
  if (!replication_of(config).empty()) {
    dynamic_cast<LoraConfig&>(*beside).layer_replication = {};
  }
  beside->check(mistakes);
}

std::string replication_of(const AdapterConfig& config) {
  const auto* lora = dynamic_cast<const LoraConfig*>(&config);
  return lora && !is_broken(lora->layer_replication) &&
          is_truthy(lora->layer_replication)
      ? lora->layer_replication.text
      : "";
}

void check_combinations(const LoraConfig& config, Mistakes& mistakes) {
  const std::string mica = "init_lora_weights = 'mica'";
  const std::string alora = "alora_invocation_tokens";
  const bool is_mica = scheme_of(config.init_lora_weights) == "mica";
  const bool is_alora = config.alora_invocation_tokens.has_value();
  const auto exclude = [&](bool both, const std::string& one, auto other) {
    if (both) {
      mistakes.add(
          ErrorKind::config,
          concat(one, " and ", other, " cannot be combined"));
    }
  };
  exclude(config.lora_bias && config.use_dora, "lora_bias", "use_dora");
  exclude(is_mica && config.use_dora, mica, "use_dora");
  exclude(is_alora && config.use_dora, alora, "use_dora");
  exclude(is_alora && is_mica, alora, mica);
  // PEFT runs the positions before the invocation on the changed base, too.
  exclude(
      is_alora && takes_weight_apart(config.init_lora_weights),
      alora,
      concat("init_lora_weights = '", config.init_lora_weights.scheme(), "'"));
  if (config.lora_bias && config.init_lora_weights.is_named()) {
    mistakes.add(
        ErrorKind::config,
        "lora_bias works only with init_lora_weights = true or false");
  }
}

}  // namespace peft::detail
