// SPDX-License-Identifier: Apache-2.0
// The list of methods whose configs this library has: a new method is one
// line in config_table.cpp.
#pragma once

#include <memory>
#include <string>

#include "peft/adapter_config.h"

namespace peft::detail {

/// A config of PEFT's `peft_type` with all defaults. Throws Error
/// (unsupported) for a method of PEFT that is not built, Error (config) for a
/// type PEFT does not have either; `origin` names the file in the message.
std::unique_ptr<AdapterConfig> make_default_config(
    const std::string& peft_type,
    const std::string& origin);

/// "'LORA', ...": the types that make_default_config accepts.
std::string list_peft_types();

}  // namespace peft::detail
