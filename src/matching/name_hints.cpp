// SPDX-License-Identifier: Apache-2.0
#include "matching/name_hints.h"

#include <algorithm>
#include <set>

#include "base/text.h"

namespace peft::detail {
namespace {

// The last `count` parts of `path`, or "" when it has fewer.
std::string last_parts(const std::string& path, std::ptrdiff_t count) {
  std::size_t start = path.size();
  for (; count > 0; --count) {
    if (start == std::string::npos || start == 0) {
      return "";
    }
    start = path.rfind('.', start - 1);
  }
  return start == std::string::npos ? path : path.substr(start + 1);
}

bool looks_like_regex(const std::string& name) {
  return name.find_first_of("*+?[](){}^$|\\") != std::string::npos;
}

}  // namespace

std::string suffix_hint(
    const std::string& name,
    const std::vector<std::string>& paths) {
  const auto parts = std::count(name.begin(), name.end(), '.') + 1;
  std::set<std::string> endings;
  for (const auto& path : paths) {
    endings.insert(last_parts(path, parts));
  }
  endings.erase("");
  return did_you_mean(name, {endings.begin(), endings.end()});
}

std::string choice_hint(
    const ModuleChoice& choice,
    const std::vector<std::string>& paths) {
  if (choice.is_pattern()) {
    const std::string& pattern = choice.pattern();
    const bool is_suffix =
        std::any_of(paths.begin(), paths.end(), [&](const std::string& path) {
          return has_path_suffix(path, pattern);
        });
    if (is_suffix) {
      return concat(
          " (a string is a regex for the whole path: the list {\"",
          pattern,
          "\"} selects what ends in '",
          pattern,
          "')");
    }
    return looks_like_regex(pattern) ? "" : suffix_hint(pattern, paths);
  }
  // Comparing names takes time, and the first few show what is wrong.
  constexpr std::size_t most = 5;
  const auto& names = choice.names();
  for (std::size_t i = 0; i < names.size() && i < most; ++i) {
    if (looks_like_regex(names[i])) {
      return concat(
          " (the entries of a list are endings of paths, not regexes: for a "
          "regex give the one string \"",
          names[i],
          "\")");
    }
    const std::string hint = suffix_hint(names[i], paths);
    if (!hint.empty()) {
      return hint;
    }
  }
  return "";
}

std::string describe_choice(const ModuleChoice& choice) {
  if (choice.is_pattern()) {
    return concat("'", choice.pattern(), "'");
  }
  const bool empty = choice.is_none() || choice.names().empty();
  return empty ? "[]" : concat("[", list_names(choice.names(), 10), "]");
}

}  // namespace peft::detail
