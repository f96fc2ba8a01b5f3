// SPDX-License-Identifier: Apache-2.0
// What PEFT's LoraConfig can ask for and this library does not do yet: the
// initialisations and the variants, refused by their names.
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

/// init_lora_weights: true, false and "gaussian" pass.
void check_init_scheme(const LoraConfig& config, Mistakes& mistakes);

/// The fields marked (kept) in lora_config.h.
void check_variants(const LoraConfig& config, Mistakes& mistakes);

}  // namespace peft::detail
