// SPDX-License-Identifier: Apache-2.0
// Python's regular expression syntax in PCRE2's, where the two differ.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace peft::detail {

struct PcreSyntax {
  std::string text;
  // For each byte of `text` the byte of the Python regex it came from.
  std::vector<std::size_t> origin;
};

/// Rewrites what means something else in PCRE2 or nothing at all:
///   \Z         the very end, PCRE2's \z
///   {,n}       zero to n times; any other brace that is no repetition is
///              itself
///   \u0041     a code point, as is \U00000041
///   [[:x:]]    a set that holds '[', no class of characters
/// What only PCRE2 understands is let through; Python would refuse it.
PcreSyntax to_pcre_syntax(const std::string& python_regex);

}  // namespace peft::detail
