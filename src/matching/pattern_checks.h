// SPDX-License-Identifier: Apache-2.0
// rank_pattern and alpha_pattern against the modules that get adapters: keys
// that meet none, and modules that several keys want differently.
#pragma once

#include <string>
#include <vector>

#include "peft/adapter_config.h"

namespace peft::detail {

struct PatternFindings {
  std::vector<std::string> unmatched;  // keys
  std::vector<std::string> notes;      // one for each pair of rival keys
};

template <class Value>
PatternFindings check_patterns(
    const char* field,
    const Patterns<Value>& patterns,
    const std::vector<std::string>& adapted_paths);

}  // namespace peft::detail
