// SPDX-License-Identifier: Apache-2.0
// The keys of rank_pattern and alpha_pattern: pattern_key_matches.
#include <algorithm>
#include <cctype>
#include <unordered_map>

#include "matching/name_pattern.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

bool is_plain_ascii(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return c < 128 && (std::isalnum(c) || c == '_' || c == '-' || c == '.');
  });
}

// What the regex does when `key` is names and dots, where a dot of the key
// meets any character. Most keys are, and a model has thousands of paths.
bool plain_key_matches(const std::string& key, const std::string& path) {
  if (key.size() > path.size()) {
    return false;
  }
  const std::size_t start = path.size() - key.size();
  if (start > 0 && path[start - 1] != '.') {
    return false;
  }
  return std::equal(
      key.begin(), key.end(), path.begin() + start, [](char k, char p) {
        return k == '.' || k == p;
      });
}

NamePattern compile_key(const std::string& key) {
  try {
    return NamePattern("(.*\\.)?(" + key + ")$");
  } catch (const Error&) {
    NamePattern alone(key);  // says it of the key as the user wrote it
    throw;
  }
}

// Every module is asked about every key, so compiled keys are remembered.
const NamePattern& compiled_key(const std::string& key) {
  thread_local std::unordered_map<std::string, NamePattern> compiled;
  const auto found = compiled.find(key);
  if (found != compiled.end()) {
    return found->second;
  }
  constexpr std::size_t most = 1024;
  if (compiled.size() >= most) {
    compiled.clear();
  }
  return compiled.emplace(key, compile_key(key)).first->second;
}

}  // namespace

bool pattern_key_matches(const std::string& key, const std::string& path) {
  if (is_plain_ascii(key) && is_plain_ascii(path)) {
    return plain_key_matches(key, path);
  }
  return compiled_key(key).match_prefix(path).has_value();
}

std::string exact_path_key(const std::string& path) {
  std::string key = "^";
  for (const char c : path) {
    const bool is_word =
        c == '_' || std::isalnum(static_cast<unsigned char>(c));
    // Non-ASCII bytes belong to letters and stay as they are.
    if (!is_word && static_cast<unsigned char>(c) < 128) {
      key += '\\';
    }
    key += c;
  }
  return key;
}

}  // namespace peft::detail
