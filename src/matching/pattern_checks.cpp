// SPDX-License-Identifier: Apache-2.0
#include "matching/pattern_checks.h"

#include <cstdint>
#include <map>
#include <utility>

#include "base/text.h"
#include "matching/name_pattern.h"

namespace peft::detail {
namespace {

template <class Value>
std::string rivals_note(
    const char* field,
    const std::pair<std::string, Value>& winner,
    const std::pair<std::string, Value>& loser,
    const std::vector<std::string>& paths) {
  return concat(
      field,
      ": '",
      winner.first,
      "' (",
      winner.second,
      ", used because it comes first) and '",
      loser.first,
      "' (",
      loser.second,
      ") both match ",
      list_names(paths, 3),
      "; PEFT's files sort the keys, so use keys that exclude each other");
}

}  // namespace

template <class Value>
PatternFindings check_patterns(
    const char* field,
    const Patterns<Value>& patterns,
    const std::vector<std::string>& adapted_paths) {
  std::vector<bool> met(patterns.size(), false);
  std::map<std::pair<std::size_t, std::size_t>, std::vector<std::string>>
      rivals;
  for (const auto& path : adapted_paths) {
    std::size_t winner = patterns.size();
    for (std::size_t i = 0; i < patterns.size(); ++i) {
      if (!pattern_key_matches(patterns[i].first, path)) {
        continue;
      }
      met[i] = true;
      if (winner == patterns.size()) {
        winner = i;
      } else if (patterns[i].second != patterns[winner].second) {
        rivals[{winner, i}].push_back(path);
      }
    }
  }
  PatternFindings findings;
  for (std::size_t i = 0; i < patterns.size(); ++i) {
    if (!met[i]) {
      findings.unmatched.push_back(patterns[i].first);
    }
  }
  for (const auto& [pair, paths] : rivals) {
    findings.notes.push_back(
        rivals_note(field, patterns[pair.first], patterns[pair.second], paths));
  }
  return findings;
}

template PatternFindings check_patterns(
    const char* field,
    const Patterns<std::int64_t>& patterns,
    const std::vector<std::string>& adapted_paths);
template PatternFindings check_patterns(
    const char* field,
    const Patterns<double>& patterns,
    const std::vector<std::string>& adapted_paths);

}  // namespace peft::detail
