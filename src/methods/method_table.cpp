// SPDX-License-Identifier: Apache-2.0
#include "methods/method_table.h"

#include "base/text.h"
#include "config/config_table.h"
#include "methods/adalora.h"
#include "methods/ia3.h"
#include "methods/lora.h"
#include "peft/ia3_config.h"
#include "peft/lora_config.h"

namespace peft::detail {
namespace {

// true: B, or the singular values, or the gains start where nothing changes.
void start_at_identity(AdapterConfig& config) {
  auto& init = dynamic_cast<LoraConfig&>(config).init_lora_weights;
  init = init == InitChoice(false) ? InitChoice(true) : init;
}

void start_at_one(AdapterConfig& config) {
  dynamic_cast<IA3Config&>(config).init_ia3_weights = true;
}

const MethodEntry entries[] = {
    {.peft_type = "ADALORA",
     .key_prefix = "lora_",
     .make = make_adalora,
     .adopt = adopt_adalora,
     .start_without_effect = start_at_identity,
     .written = written_adalora,
     .loads_in_peft = adalora_loads_in_peft,
     .make_schedule = make_rank_allocator},
    {.peft_type = "IA3",
     .key_prefix = "ia3_",
     .make = make_ia3,
     .adopt = adopt_ia3,
     .start_without_effect = start_at_one,
     .fit = fit_ia3,
     .loads_in_peft = ia3_loads_in_peft},
    {.peft_type = "LORA",
     .key_prefix = "lora_",
     .make = make_lora,
     .adopt = adopt_lora,
     .start_without_effect = start_at_identity,
     .data_pass = lora_data_pass,
     .adopt_data = adopt_lora_data,
     .needs_plain_files = lora_needs_plain_files,
     .fit = fit_lora,
     .settle = settle_lora,
     .make_plain = make_plain_lora,
     .plain = plain_lora,
     .as_head = lora_as_head,
     .loads_in_peft = lora_loads_in_peft},
};

}  // namespace

const MethodEntry& method_entry(const AdapterConfig& config) {
  for (const auto& entry : entries) {
    if (entry.peft_type == config.peft_type()) {
      return entry;
    }
  }
  throw Error(
      ErrorKind::unsupported,
      concat(
          "method '",
          config.peft_type(),
          "' is not built yet; this library has ",
          list_peft_types()));
}

}  // namespace peft::detail
