// SPDX-License-Identifier: Apache-2.0
// What is said when a choice of modules cannot be used: nothing chosen, or
// modules chosen that cannot be adapted.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "matching/selection.h"
#include "matching/target_matcher.h"
#include "peft/adapter_config.h"

namespace peft::detail {

/// How many modules stand where.
using Tally = std::map<Standing, std::size_t>;

/// PEFT's four reasons for having no module to adapt, as one text.
std::string no_match_text(
    const AdapterConfig& config,
    const std::vector<ModuleName>& modules,
    const Tally& tally);

/// One text for each type and obstacle among `chosen`, modules that are not
/// supported.
std::vector<std::string> unsupported_texts(
    const std::vector<const ModuleName*>& chosen,
    const std::vector<ModuleName>& modules);

}  // namespace peft::detail
