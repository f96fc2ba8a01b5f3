// SPDX-License-Identifier: Apache-2.0
// The fields of LoraConfig that hold token ids: what can be said of them
// without a model.
#pragma once

#include "base/mistakes.h"
#include "peft/lora_config.h"

namespace peft::detail {

/// alora_invocation_tokens and trainable_token_indices.
void check_tokens(const LoraConfig& config, Mistakes& mistakes);

}  // namespace peft::detail
