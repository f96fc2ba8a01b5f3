// SPDX-License-Identifier: Apache-2.0
// modules_to_save in files. PEFT takes every module whose path ends with the
// letters of an entry ("norm" takes "q_norm" too); this library, only whole
// names. Files must mean the same to both.
#pragma once

#include "hosting/host.h"
#include "peft/adapter_config.h"
#include "peft/safetensors.h"

namespace peft::detail {

/// Before loading: adds to config.modules_to_save what PEFT took besides, as
/// the keys of the file tell.
void add_modules_that_peft_saved(
    AdapterConfig& config,
    const Host& host,
    const StateDict& weights);

/// Before saving: replaces an entry that PEFT would read as more modules by the
/// paths of those that it means. Warns where even a path is read as more.
void spell_out_saved_modules(AdapterConfig& config, const Host& host);

}  // namespace peft::detail
