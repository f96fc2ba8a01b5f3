// SPDX-License-Identifier: Apache-2.0
// What a MatchReport says in words.
#include "peft/match_report.h"

#include <algorithm>

#include "base/text.h"
#include "matching/name_hints.h"

namespace peft {
namespace {

using detail::concat;

std::string padded(const std::string& text, std::size_t width) {
  return text + std::string(width - std::min(width, text.size()), ' ');
}

}  // namespace

std::vector<std::string> MatchReport::adapted() const {
  std::vector<std::string> paths;
  for (const auto& module : modules) {
    if (module.adapted) {
      paths.push_back(module.path);
    }
  }
  return paths;
}

std::vector<std::string> MatchReport::warnings() const {
  std::vector<std::string> paths;
  for (const auto& module : modules) {
    paths.push_back(module.path);
  }
  std::vector<std::string> lines;
  const auto add = [&](const char* field,
                       const std::vector<std::string>& names,
                       const std::vector<std::string>& known,
                       const char* what) {
    for (const auto& name : names) {
      lines.push_back(concat(
          field, ": '", name, "' ", what, detail::suffix_hint(name, known)));
    }
  };
  add("target_modules", unmatched_targets, paths, "meets no module");
  add("exclude_modules", unmatched_excludes, paths, "meets no module");
  add("modules_to_save", unmatched_modules_to_save, paths, "meets no module");
  add("rank_pattern",
      unmatched_rank_patterns,
      adapted(),
      "meets no adapted module");
  add("alpha_pattern",
      unmatched_alpha_patterns,
      adapted(),
      "meets no adapted module");
  lines.insert(lines.end(), notes.begin(), notes.end());
  return lines;
}

std::string MatchReport::to_string() const {
  std::size_t path_width = 6;  // of the heading, "module"
  std::size_t type_width = 4;
  for (const auto& module : modules) {
    path_width = std::max(path_width, module.path.size());
    type_width = std::max(type_width, module.type.size());
  }
  std::string text = concat(
      padded("module", path_width),
      "  ",
      padded("type", type_width),
      "  adapted  reason\n");
  for (const auto& module : modules) {
    text += concat(
        padded(module.path, path_width),
        "  ",
        padded(module.type, type_width),
        module.adapted ? "  yes      " : "  no       ",
        module.reason,
        "\n");
  }
  text += concat(
      adapted().size(), " of ", modules.size(), " modules get an adapter\n");
  for (const auto& line : warnings()) {
    text += concat("warning: ", line, "\n");
  }
  return text;
}

}  // namespace peft
