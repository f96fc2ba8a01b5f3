// SPDX-License-Identifier: Apache-2.0
// UTF-8 by hand, and binary search in the generated tables.
#include "unicode.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace finetune_text {
namespace {

struct Range {
  char32_t first, last;
};

// `count` letters from `from` on, `step` apart, read as `to`, `to + to_step`...
struct FoldRun {
  char32_t from;
  std::uint32_t step;
  char32_t to;
  std::int32_t to_step;
  std::uint32_t count;
};

struct LongFold {
  char32_t from, to[3];
};

#include "unicode_tables.inc"

constexpr Range ideographs[] = {
    {0x3400, 0x4DBF},
    {0x4E00, 0x9FFF},
    {0xF900, 0xFAFF},
    {0x20000, 0x2A6DF},
    {0x2A700, 0x2B73F},
    {0x2B740, 0x2B81F},
    {0x2B920, 0x2CEAF},
    {0x2F800, 0x2FA1F},
};

template <std::size_t size>
bool is_in(const Range (&ranges)[size], char32_t code) {
  const auto next = std::upper_bound(
      std::begin(ranges),
      std::end(ranges),
      code,
      [](char32_t c, const Range& range) { return c < range.first; });
  return next != std::begin(ranges) && code <= std::prev(next)->last;
}

// Hangul syllables are put together by arithmetic (Unicode, section 3.12).
bool append_hangul(char32_t code, std::u32string& text) {
  constexpr char32_t first = 0xAC00, count = 11172;
  if (code < first || code >= first + count) {
    return false;
  }
  const char32_t index = code - first;
  text += 0x1100 + index / 588;
  text += 0x1161 + index % 588 / 28;
  if (index % 28 != 0) {
    text += 0x11A7 + index % 28;
  }
  return true;
}

bool append_long_fold(char32_t code, std::u32string& text) {
  const auto found = std::lower_bound(
      std::begin(long_folds),
      std::end(long_folds),
      code,
      [](const LongFold& fold, char32_t c) { return fold.from < c; });
  if (found == std::end(long_folds) || found->from != code) {
    return false;
  }
  for (const char32_t part : found->to) {
    if (part != 0) {
      text += part;
    }
  }
  return true;
}

// Length of the UTF-8 sequence that starts at text[0], and its code point;
// 1 and U+FFFD where it is not valid.
std::pair<std::size_t, char32_t> decode_one(std::string_view text) {
  constexpr std::pair<std::size_t, char32_t> broken{1, 0xFFFD};
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) {
    return {1, lead};
  }
  const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) {
    return broken;
  }
  char32_t code = lead & (0x7F >> length);
  for (std::size_t i = 1; i < length; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if ((byte & 0xC0) != 0x80) {
      return broken;
    }
    code = code << 6 | (byte & 0x3F);
  }
  constexpr char32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  if (code < smallest[length] || code > 0x10FFFF || surrogate) {
    return broken;
  }
  return {length, code};
}

}  // namespace

std::u32string decode_utf8(std::string_view text) {
  std::u32string codes;
  codes.reserve(text.size());
  while (!text.empty()) {
    const auto [length, code] = decode_one(text);
    codes += code;
    text.remove_prefix(length);
  }
  return codes;
}

std::string encode_utf8(std::u32string_view text) {
  std::string bytes;
  for (const char32_t code : text) {
    if (code < 0x80) {
      bytes += static_cast<char>(code);
      continue;
    }
    const int extra = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    constexpr unsigned leads[] = {0, 0xC0, 0xE0, 0xF0};
    bytes += static_cast<char>(leads[extra] | code >> 6 * extra);
    for (int i = extra - 1; i >= 0; --i) {
      bytes += static_cast<char>(0x80 | (code >> 6 * i & 0x3F));
    }
  }
  return bytes;
}

bool is_dropped(char32_t code) {
  return is_in(dropped, code);
}
bool is_space(char32_t code) {
  return is_in(spaces, code);
}
bool is_punctuation(char32_t code) {
  return is_in(punctuation, code);
}
bool is_ideograph(char32_t code) {
  return is_in(ideographs, code);
}

void append_folded(char32_t code, std::u32string& text) {
  const auto next = std::upper_bound(
      std::begin(folds),
      std::end(folds),
      code,
      [](char32_t c, const FoldRun& run) { return c < run.from; });
  if (next != std::begin(folds)) {
    const FoldRun& run = *std::prev(next);
    const std::uint32_t distance = code - run.from;
    const std::uint32_t index = distance / run.step;
    if (distance % run.step == 0 && index < run.count) {
      text += static_cast<char32_t>(
          static_cast<std::int64_t>(run.to) +
          std::int64_t{run.to_step} * index);
      return;
    }
  }
  if (!append_hangul(code, text) && !append_long_fold(code, text)) {
    text += code;
  }
}

}  // namespace finetune_text
