// SPDX-License-Identifier: Apache-2.0
// Python's re.fullmatch and re.match on module paths (PCRE2 underneath), and
// the pattern tables of rank_pattern and alpha_pattern.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "peft/adapter_config.h"

namespace peft::detail {

/// A compiled Python regular expression. Copies share the compiled form; may
/// be used by several threads at once.
class NamePattern {
 public:
  /// Throws Error (config) with the position when `regex` is not valid.
  explicit NamePattern(const std::string& regex);

  /// re.fullmatch: the whole of `text`.
  bool matches_whole(const std::string& text) const;
  /// re.match: from the start of `text`. Returns the group called `group`
  /// ("" : the whole match) when it matched and took part.
  std::optional<std::string> match_prefix(
      const std::string& text,
      const std::string& group = "") const;

 private:
  struct Compiled;
  std::shared_ptr<const Compiled> compiled_;
};

/// PEFT's rule for one key of rank_pattern or alpha_pattern:
/// re.match(rf"(.*\.)?({key})$", path).
bool pattern_key_matches(const std::string& key, const std::string& path);

/// A pattern key that matches `path` and nothing else.
std::string exact_path_key(const std::string& path);

/// The value of the first key, in order, that matches `path`.
template <class Value>
std::optional<Value> value_for_path(
    const Patterns<Value>& patterns,
    const std::string& path) {
  for (const auto& [key, value] : patterns) {
    if (pattern_key_matches(key, path)) {
      return value;
    }
  }
  return std::nullopt;
}

/// `patterns`, or, where sorting its keys (as adapter_config.json does) would
/// give one of `paths` another value, exact paths with the values they have.
template <class Value>
Patterns<Value> order_free(
    const Patterns<Value>& patterns,
    const std::vector<std::string>& paths) {
  Patterns<Value> sorted = patterns;
  std::stable_sort(
      sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
        return a.first < b.first;
      });
  Patterns<Value> exact;
  bool same = true;
  for (const auto& path : paths) {
    const auto value = value_for_path(patterns, path);
    same = same && value == value_for_path(sorted, path);
    if (value) {
      exact.emplace_back(exact_path_key(path), *value);
    }
  }
  return same ? patterns : exact;
}

}  // namespace peft::detail
