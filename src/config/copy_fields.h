// SPDX-License-Identifier: Apache-2.0
// Fields of one config into another, by their names in adapter_config.json.
#pragma once

#include <set>
#include <string>

#include "peft/adapter_config.h"

namespace peft::detail {

/// Gives `to` the values that `from`, of the same class, has for `names`; names
/// that the class does not have are passed over.
void copy_fields(
    AdapterConfig& from,
    AdapterConfig& to,
    const std::set<std::string>& names);

/// The fields that choose what an adapter stands on and what is trained beside
/// it.
const std::set<std::string>& target_fields();

}  // namespace peft::detail
