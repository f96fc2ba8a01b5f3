// SPDX-License-Identifier: Apache-2.0
#include "config/peft_version.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <optional>
#include <vector>

#include "peft/lora_config.h"

namespace peft::detail {
namespace {

struct Version {
  std::vector<long> numbers;
  bool is_release = true;
};

// "0.19.2.dev0@x", "1.0rc1": numbers and dots, then what makes it no release.
std::optional<Version> parse(const std::string& text) {
  constexpr std::size_t most_digits = 9;
  Version version;
  std::size_t at = 0;
  while (at < text.size()) {
    const auto end = std::find_if(
        text.begin() + static_cast<std::ptrdiff_t>(at),
        text.end(),
        [](unsigned char c) { return !std::isdigit(c); });
    const auto next = static_cast<std::size_t>(end - text.begin());
    if (next == at || next - at > most_digits) {
      break;
    }
    version.numbers.push_back(std::stol(text.substr(at, next - at)));
    at = next < text.size() && text[next] == '.' ? next + 1 : next;
    if (at == next) {
      break;
    }
  }
  if (version.numbers.empty() && !text.empty()) {
    return std::nullopt;
  }
  // "+cu12" and ".post1" come after their release.
  const std::string rest = text.substr(at);
  version.is_release =
      rest.empty() || rest.front() == '+' || rest.starts_with("post");
  while (!version.numbers.empty() && version.numbers.back() == 0) {
    version.numbers.pop_back();  // 0.19 is 0.19.0
  }
  return version;
}

}  // namespace

const std::string& known_peft_version() {
  static const std::string version = LoraConfig().peft_version;
  return version;
}

std::partial_ordering compare_versions(
    const std::string& a,
    const std::string& b) {
  const auto x = parse(a);
  const auto y = parse(b);
  if (!x || !y) {
    return std::partial_ordering::unordered;
  }
  if (const auto by_number = x->numbers <=> y->numbers; by_number != 0) {
    return by_number;
  }
  return x->is_release <=> y->is_release;
}

}  // namespace peft::detail
