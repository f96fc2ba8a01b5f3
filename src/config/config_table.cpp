// SPDX-License-Identifier: Apache-2.0
#include "config/config_table.h"

#include <algorithm>
#include <cctype>
#include <vector>

#include "base/text.h"
#include "peft/adalora_config.h"
#include "peft/error.h"
#include "peft/ia3_config.h"

namespace peft::detail {
namespace {

struct Entry {
  const char* peft_type;
  std::unique_ptr<AdapterConfig> (*make)();
};

template <class Config>
std::unique_ptr<AdapterConfig> make() {
  return std::make_unique<Config>();
}

const Entry table[] = {
    {"ADALORA", make<AdaLoraConfig>},
    {"IA3", make<IA3Config>},
    {"LORA", make<LoraConfig>},
};

// The other types of PEFT 0.21.2, so that their files are refused as what
// they are and not as broken ones.
const char* const not_built[] = {
    "ADAMSS",
    "ADAPTION_PROMPT",
    "BEFT",
    "BOFT",
    "C3A",
    "CARTRIDGE",
    "CPT",
    "DEFT",
    "DELORA",
    "FOURIERFT",
    "FROD",
    "GLORA",
    "GRALORA",
    "HIRA",
    "HRA",
    "LILY",
    "LN_TUNING",
    "LOHA",
    "LOKR",
    "MISS",
    "MULTITASK_PROMPT_TUNING",
    "OFT",
    "OSF",
    "PEANUT",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "PSOFT",
    "PVERA",
    "P_TUNING",
    "RANDLORA",
    "ROAD",
    "SHADOW",
    "SHIRA",
    "SUPERTUNING",
    "TINYLORA",
    "TRAINABLE_TOKENS",
    "UNILORA",
    "VBLORA",
    "VERA",
    "WAVEFT",
    "XLORA",
};

std::vector<std::string> built_types() {
  std::vector<std::string> types;
  for (const Entry& entry : table) {
    types.emplace_back(entry.peft_type);
  }
  return types;
}

}  // namespace

std::string list_peft_types() {
  const auto types = built_types();
  return list_names(types, types.size());
}

std::unique_ptr<AdapterConfig> make_default_config(
    const std::string& peft_type,
    const std::string& origin) {
  std::vector<std::string> types = built_types();
  for (const Entry& entry : table) {
    if (peft_type == entry.peft_type) {
      return entry.make();
    }
  }
  for (const char* type : not_built) {
    if (peft_type == type) {
      throw Error(
          ErrorKind::unsupported,
          concat(
              origin,
              ": peft_type '",
              peft_type,
              "' is a method of PEFT that is not built yet; built are ",
              list_peft_types()));
    }
    types.emplace_back(type);
  }
  // 'lora' is as likely a slip as 'LROA': compare without regard to case.
  std::string upper = peft_type;
  std::transform(
      upper.begin(), upper.end(), upper.begin(), [](unsigned char c) {
        return static_cast<char>(std::toupper(c));
      });
  throw Error(
      ErrorKind::config,
      concat(
          origin,
          ": peft_type '",
          peft_type,
          "' is unknown",
          did_you_mean(upper, types),
          "; known are ",
          list_peft_types()));
}

}  // namespace peft::detail
