// SPDX-License-Identifier: Apache-2.0
#include "base/text.h"

#include <algorithm>
#include <numeric>

namespace peft::detail {
namespace {

// Levenshtein distance, one row at a time.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitute = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string list_names(const std::vector<std::string>& names, size_t most) {
  if (names.empty()) {
    return "none";
  }
  std::string text;
  for (size_t i = 0; i < names.size() && i < most; ++i) {
    text += (i == 0 ? "'" : ", '") + names[i] + "'";
  }
  if (names.size() > most) {
    text += concat(" and ", names.size() - most, " more");
  }
  return text;
}

std::string nearest_name(
    const std::string& name,
    const std::vector<std::string>& candidates) {
  std::string nearest;
  size_t best = std::max<size_t>(1, name.size() / 3) + 1;
  for (const auto& candidate : candidates) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

std::string did_you_mean(
    const std::string& name,
    const std::vector<std::string>& candidates) {
  const std::string nearest = nearest_name(name, candidates);
  return nearest.empty() ? "" : concat(" (did you mean '", nearest, "'?)");
}

bool has_path_suffix(const std::string& path, const std::string& suffix) {
  if (path.size() == suffix.size()) {
    return path == suffix;
  }
  return path.size() > suffix.size() && path.ends_with(suffix) &&
      path[path.size() - suffix.size() - 1] == '.';
}

std::string join_path(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : prefix + "." + name;
}

}  // namespace peft::detail
