// SPDX-License-Identifier: Apache-2.0
// What PEFT's LoraConfig can ask for beside plain LoRA: initialisations and
// variants. What this library does not do is refused by its name.
#pragma once

#include <string>
#include <string_view>

#include "base/mistakes.h"
#include "peft/lora_config.h"

namespace peft::detail {

/// What stands before the number of steps in "pissa_niter_4".
constexpr std::string_view pissa_niter = "pissa_niter_";

/// "OLoRA" -> "olora": a scheme's name as it is compared.
std::string scheme_of(const InitChoice& init);

/// Whether the factors start as a part of the weight that the base then lacks.
bool takes_weight_apart(const InitChoice& init);

/// init_lora_weights: what is built, and what it asks of lora_alpha.
void check_init_scheme(const LoraConfig& config, Mistakes& mistakes);

/// eva_config, corda_config and lora_ga_config.
void check_init_configs(const LoraConfig& config, Mistakes& mistakes);

/// The fields marked (kept) in lora_config.h.
void check_variants(const LoraConfig& config, Mistakes& mistakes);

/// config.check() for a config that came with an adapter's tensors. Its
/// layer_replication then says how the model was made that they are for, and
/// asks nothing of a model that has all those layers.
void check_beside_tensors(const AdapterConfig& config, Mistakes& mistakes);

/// What layer_replication asks for, as JSON, or "".
std::string replication_of(const AdapterConfig& config);

/// Variants that exclude one another, as in PEFT.
void check_combinations(const LoraConfig& config, Mistakes& mistakes);

}  // namespace peft::detail
