// SPDX-License-Identifier: Apache-2.0
#include "matching/choice_matcher.h"

#include <algorithm>
#include <cctype>

namespace peft::detail {

bool is_all_linear(const ModuleChoice& choice) {
  constexpr std::string_view word = "all-linear";
  return choice.is_pattern() &&
      std::equal(
             word.begin(),
             word.end(),
             choice.pattern().begin(),
             choice.pattern().end(),
             [](char w, unsigned char c) { return w == std::tolower(c); });
}

ChoiceMatcher::ChoiceMatcher(ModuleChoice choice) : choice_(std::move(choice)) {
  if (choice_.is_pattern()) {
    pattern_.emplace(choice_.pattern());
    met_.emplace(choice_.pattern(), false);
  } else if (choice_.is_list()) {
    for (const auto& name : choice_.names()) {
      met_.emplace(name, false);
    }
  }
}

std::optional<ChoiceMatcher::Hit> ChoiceMatcher::find(const std::string& path) {
  if (pattern_) {
    if (!pattern_->matches_whole(path)) {
      return std::nullopt;
    }
    met_.begin()->second = true;
    return Hit{choice_.pattern(), false};
  }
  // A path has few suffixes and a list may have hundreds of entries, so the
  // suffixes are looked up among the entries; all that fit count as met.
  std::optional<Hit> longest;
  std::string_view suffix = path;
  while (!met_.empty()) {
    const auto entry = met_.find(suffix);
    if (entry != met_.end()) {
      entry->second = true;
      if (!longest) {
        longest = Hit{std::string(suffix), suffix.size() == path.size()};
      }
    }
    const std::size_t dot = suffix.find('.');
    if (dot == std::string_view::npos) {
      break;
    }
    suffix.remove_prefix(dot + 1);
  }
  return longest;
}

std::optional<ChoiceMatcher::Hit> ChoiceMatcher::find_around(
    const std::string& path) {
  std::string around = path;
  while (true) {
    if (auto hit = find(around)) {
      return hit;
    }
    const std::size_t dot = around.rfind('.');
    if (dot == std::string::npos) {
      return std::nullopt;
    }
    around.resize(dot);
  }
}

std::vector<std::string> ChoiceMatcher::unmet() const {
  std::vector<std::string> names;
  const auto add = [&](const std::string& name) {
    const bool listed =
        std::find(names.begin(), names.end(), name) != names.end();
    if (!met_.at(name) && !listed) {
      names.push_back(name);
    }
  };
  if (choice_.is_pattern()) {
    add(choice_.pattern());
  } else if (choice_.is_list()) {
    std::for_each(choice_.names().begin(), choice_.names().end(), add);
  }
  return names;
}

}  // namespace peft::detail
