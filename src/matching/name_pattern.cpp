// SPDX-License-Identifier: Apache-2.0
// Compiled patterns are shared and never change; what a match writes to is
// made for each call, so threads need no lock.
#include "matching/name_pattern.h"

#include "base/text.h"
#include "matching/python_regex.h"
#include "peft/error.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace peft::detail {
namespace {

using MatchData =
    std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;

PCRE2_SPTR bytes(const std::string& text) {
  return reinterpret_cast<PCRE2_SPTR>(text.data());
}

std::string message_of(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

// Module paths are short: a pattern that needs a million steps for one of
// them would need hours for a model.
pcre2_match_context* limits() {
  static pcre2_match_context* const context = [] {
    auto* made = pcre2_match_context_create(nullptr);
    pcre2_set_match_limit(made, 1'000'000);
    pcre2_set_heap_limit(made, 64 * 1024);  // KiB
    return made;
  }();
  return context;
}

}  // namespace

struct NamePattern::Compiled {
  std::string regex;
  pcre2_code* code = nullptr;

  explicit Compiled(const std::string& given) : regex(given) {
    const PcreSyntax pcre = to_pcre_syntax(regex);
    int error = 0;
    PCRE2_SIZE where = 0;
    code = pcre2_compile(
        bytes(pcre.text),
        pcre.text.size(),
        PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF |
            PCRE2_NEVER_BACKSLASH_C,
        &error,
        &where,
        nullptr);
    if (!code) {
      const std::size_t position =
          where < pcre.origin.size() ? pcre.origin[where] : regex.size();
      throw Error(
          ErrorKind::config,
          concat(
              "'",
              regex,
              "' is not a valid regular expression: ",
              message_of(error),
              " at position ",
              position));
    }
  }
  ~Compiled() { pcre2_code_free(code); }
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;

  // No match data when `text` does not match.
  MatchData match(const std::string& text, std::uint32_t options) const {
    MatchData data(
        pcre2_match_data_create_from_pattern(code, nullptr),
        pcre2_match_data_free);
    const int result = pcre2_match(
        code, bytes(text), text.size(), 0, options, data.get(), limits());
    if (result == PCRE2_ERROR_NOMATCH) {
      return {nullptr, pcre2_match_data_free};
    }
    if (result == PCRE2_ERROR_MATCHLIMIT || result == PCRE2_ERROR_DEPTHLIMIT ||
        result == PCRE2_ERROR_HEAPLIMIT) {
      throw Error(
          ErrorKind::config,
          concat(
              "the pattern '",
              regex,
              "' is too expensive: matching it against '",
              text,
              "' takes more than a million steps; write it without nested "
              "repetitions such as (a+)+"));
    }
    if (result < 0) {
      throw Error(
          ErrorKind::config,
          concat(
              "cannot match '",
              regex,
              "' against '",
              text,
              "': ",
              message_of(result)));
    }
    return data;
  }
};

NamePattern::NamePattern(const std::string& regex)
    : compiled_(std::make_shared<Compiled>(regex)) {}

bool NamePattern::matches_whole(const std::string& text) const {
  return compiled_->match(text, PCRE2_ANCHORED | PCRE2_ENDANCHORED) != nullptr;
}

std::optional<std::string> NamePattern::match_prefix(
    const std::string& text,
    const std::string& group) const {
  const MatchData data = compiled_->match(text, PCRE2_ANCHORED);
  if (!data) {
    return std::nullopt;
  }
  int number = 0;
  if (!group.empty()) {
    number = pcre2_substring_number_from_name(
        compiled_->code, reinterpret_cast<PCRE2_SPTR>(group.c_str()));
  }
  if (number < 0) {
    return std::nullopt;
  }
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data.get()) + 2 * number;
  // \K is Python's syntax error, but PCRE2's way to start after the end.
  if (ends[0] == PCRE2_UNSET || ends[0] > ends[1]) {
    return std::nullopt;
  }
  return text.substr(ends[0], ends[1] - ends[0]);
}

}  // namespace peft::detail
