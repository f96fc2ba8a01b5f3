// SPDX-License-Identifier: Apache-2.0
// What the user may have meant by a name or pattern that meets no module.
#pragma once

#include <string>
#include <vector>

#include "peft/adapter_config.h"

namespace peft::detail {

/// " (did you mean 'query'?)": the ending of a path, of as many parts as
/// `name` has, that is nearest to `name`; or "".
std::string suffix_hint(
    const std::string& name,
    const std::vector<std::string>& paths);

/// What is amiss with target_modules as such, when nothing matches: a regex in
/// a list, a name where a pattern is expected, a typing error; or "".
std::string choice_hint(
    const ModuleChoice& choice,
    const std::vector<std::string>& paths);

/// For messages: "['q', 'v']" or "'.*q'".
std::string describe_choice(const ModuleChoice& choice);

}  // namespace peft::detail
