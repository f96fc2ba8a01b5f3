// SPDX-License-Identifier: Apache-2.0
// What a BERT tokenizer needs to know of Unicode, one code point at a time, as
// Hugging Face's tokenizers has it (see scripts/make_unicode_tables.py).
#pragma once

#include <string>
#include <string_view>

namespace finetune_text {

/// The code points of UTF-8 text; U+FFFD for each byte that is not UTF-8.
std::u32string decode_utf8(std::string_view text);
std::string encode_utf8(std::u32string_view text);

/// Control characters, accents and whatever else a tokenizer drops.
bool is_dropped(char32_t code);
bool is_space(char32_t code);
/// Unicode's punctuation and all ASCII symbols.
bool is_punctuation(char32_t code);
/// Ideographs, which are words of one character each.
bool is_ideograph(char32_t code);

/// Appends `code` in lower case and without accents.
void append_folded(char32_t code, std::u32string& text);

}  // namespace finetune_text
