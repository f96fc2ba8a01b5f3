// SPDX-License-Identifier: Apache-2.0
// A ModuleChoice ready to be asked about many paths. It remembers which of its
// parts met one, so that the others can be reported.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "matching/name_pattern.h"
#include "peft/adapter_config.h"

namespace peft::detail {

/// "all-linear", in any case: a word for target_modules, no pattern.
bool is_all_linear(const ModuleChoice& choice);

class ChoiceMatcher {
 public:
  struct Hit {
    std::string part;    // the entry of the list, or the pattern
    bool exact = false;  // an entry that is the whole path
  };

  /// Throws Error (config) when the choice is no valid pattern.
  explicit ChoiceMatcher(ModuleChoice choice);
  ChoiceMatcher(const ChoiceMatcher&) = delete;
  ChoiceMatcher& operator=(const ChoiceMatcher&) = delete;

  bool is_pattern() const { return choice_.is_pattern(); }
  /// The part that selects `path`: of several entries the longest.
  std::optional<Hit> find(const std::string& path);
  /// As find, for `path` or the nearest module around it.
  std::optional<Hit> find_around(const std::string& path);
  /// The parts that no path met so far, in the order of the config.
  std::vector<std::string> unmet() const;

 private:
  ModuleChoice choice_;
  std::optional<NamePattern> pattern_;
  std::unordered_map<std::string_view, bool> met_;  // views into choice_
};

}  // namespace peft::detail
