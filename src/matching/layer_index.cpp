// SPDX-License-Identifier: Apache-2.0
#include "matching/layer_index.h"

#include <algorithm>
#include <charconv>

namespace peft::detail {
namespace {

std::optional<std::int64_t> to_index(const std::string& digits) {
  std::int64_t index = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, index);
  const bool whole = error == std::errc() && stop == end && digits[0] != '-';
  return whole ? std::optional(index) : std::nullopt;
}

std::vector<std::string> parts_of(const std::string& path) {
  std::vector<std::string> parts;
  std::size_t start = 0;
  for (std::size_t dot; (dot = path.find('.', start)) != std::string::npos;
       start = dot + 1) {
    parts.push_back(path.substr(start, dot - start));
  }
  parts.push_back(path.substr(start));
  return parts;
}

// PEFT's r".*?\.[^.]*\.(?P<idx>\d+)\." without a regex: it runs for every
// module of the model.
std::optional<std::int64_t> index_below_root(
    const std::vector<std::string>& parts) {
  for (std::size_t i = 2; i + 1 < parts.size(); ++i) {
    if (const auto index = to_index(parts[i])) {
      return index;
    }
  }
  return std::nullopt;
}

std::optional<std::int64_t> index_at_root(
    const std::vector<std::string>& parts) {
  return parts.size() > 2 ? to_index(parts[1]) : std::nullopt;
}

}  // namespace

LayerFilter::LayerFilter(
    std::vector<std::int64_t> indexes,
    const std::vector<std::string>& patterns)
    : indexes_(std::move(indexes)) {
  for (const auto& pattern : patterns) {
    patterns_.emplace_back("(?:^|.*?\\.)" + pattern + "\\.(?P<idx>\\d+)\\.");
  }
}

std::optional<std::int64_t> LayerFilter::index_of(
    const std::string& path) const {
  for (const auto& pattern : patterns_) {
    if (pattern.match_prefix(path)) {
      const auto digits = pattern.match_prefix(path, "idx");
      return digits ? to_index(*digits) : std::nullopt;
    }
  }
  if (!patterns_.empty()) {
    return std::nullopt;
  }
  const auto parts = parts_of(path);
  const auto index = index_below_root(parts);
  return index ? index : index_at_root(parts);
}

bool LayerFilter::takes(std::int64_t index) const {
  return std::find(indexes_.begin(), indexes_.end(), index) != indexes_.end();
}

std::optional<std::int64_t> LayerFilter::overlooked_index(
    const std::string& path) const {
  if (!patterns_.empty()) {
    return std::nullopt;
  }
  const auto parts = parts_of(path);
  const auto root = index_at_root(parts);
  const auto below = index_below_root(parts);
  return root && below && root != below ? root : std::nullopt;
}

}  // namespace peft::detail
