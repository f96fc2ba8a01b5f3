// SPDX-License-Identifier: Apache-2.0
// Small pieces of text for messages: joining, listing a few of many names,
// the nearest name for a typo.
#pragma once

#include <sstream>
#include <string>
#include <vector>

namespace peft::detail {

/// All arguments printed one after the other.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// "'a', 'b', 'c' and 445 more"; "none" for an empty list.
std::string list_names(const std::vector<std::string>& names, size_t most = 5);

/// The candidate within a third of `name`'s length in edits, or "".
std::string nearest_name(
    const std::string& name,
    const std::vector<std::string>& candidates);

/// " (did you mean 'x'?)", or "" when no candidate is near.
std::string did_you_mean(
    const std::string& name,
    const std::vector<std::string>& candidates);

/// True when `path` is `suffix` or ends with "." + suffix.
bool has_path_suffix(const std::string& path, const std::string& suffix);

/// `prefix` + "." + `name`, or just `name` when prefix is empty.
std::string join_path(const std::string& prefix, const std::string& name);

}  // namespace peft::detail
