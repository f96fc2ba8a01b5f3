// SPDX-License-Identifier: Apache-2.0
// Keys of files and state dicts, part by part: where the name of an adapter's
// tensor stands, and why keys fit nowhere.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/mistakes.h"
#include "peft/state_dict.h"

namespace peft::detail {

/// "a.b.c" in its parts.
std::vector<std::string> key_parts(std::string_view key);

/// Where the last part of `key` starts that is the name of a tensor of a method
/// (see is_tensor_name) and has a layer before it; std::string::npos.
std::size_t tensor_name_at(std::string_view key, std::string_view prefix = "");

/// Adds a mistake for keys that are spelled almost as PEFT spells them.
void check_spelling(const std::vector<std::string>& keys, Mistakes& mistakes);

/// Adds what is known of why `keys` fit nowhere: see above, and
/// wrapper_names.h.
void explain_unexpected(
    const std::vector<std::string>& keys,
    Mistakes& mistakes);

/// Adds why tensors of `weights` have no elements, if some have none.
void explain_empty(const StateDict& weights, Mistakes& mistakes);

}  // namespace peft::detail
