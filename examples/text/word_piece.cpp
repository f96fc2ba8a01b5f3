// SPDX-License-Identifier: Apache-2.0
// Words are what stands between white space, with punctuation and ideographs
// on their own; a word is then cut into the longest pieces that the vocabulary
// has, from the left ("##" marks a piece that continues a word).
//
// Accents are dropped, and what is left of decomposed characters keeps its
// order. Unicode would sort the few spacing marks among them, none of which
// is in a BERT vocabulary: a word that holds one is [UNK] either way.
#include "word_piece.h"

#include <fstream>
#include <stdexcept>

#include "unicode.h"

namespace finetune_text {
namespace {

constexpr std::size_t longest_word = 100;  // code points; beyond is [UNK]

// Lower-case words of `text`, without accents.
std::vector<std::u32string> split_words(std::string_view text) {
  std::vector<std::u32string> words;
  std::u32string word;
  const auto end_word = [&] {
    if (!word.empty()) {
      words.push_back(std::move(word));
      word.clear();
    }
  };
  std::u32string folded;
  for (const char32_t code : decode_utf8(text)) {
    if (is_space(code)) {
      end_word();
      continue;
    }
    if (is_dropped(code)) {
      continue;
    }
    const bool alone = is_ideograph(code);
    if (alone) {
      end_word();
    }
    folded.clear();
    append_folded(code, folded);
    for (const char32_t letter : folded) {
      if (is_punctuation(letter)) {
        end_word();
        words.push_back({letter});
      } else {
        word += letter;
      }
    }
    if (alone) {
      end_word();
    }
  }
  end_word();
  return words;
}

}  // namespace

WordPiece::WordPiece(const std::filesystem::path& vocabulary) {
  std::ifstream file(vocabulary, std::ios::binary);
  if (!file) {
    throw std::runtime_error("cannot read " + vocabulary.string());
  }
  for (std::string line; std::getline(file, line);) {
    if (line.ends_with('\r')) {
      line.pop_back();
    }
    ids_.insert_or_assign(line, static_cast<std::int64_t>(tokens_.size()));
    tokens_.push_back(line);
  }
  for (const char* needed : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    if (!ids_.contains(needed)) {
      throw std::runtime_error(
          vocabulary.string() + " is no BERT vocabulary: it lacks " + needed);
    }
  }
  pad_ = special("[PAD]");
  unknown_ = special("[UNK]");
  begin_ = special("[CLS]");
  end_ = special("[SEP]");
  mask_ = special("[MASK]");
}

std::int64_t WordPiece::special(const std::string& token) const {
  return ids_.at(token);
}

std::vector<std::int64_t> WordPiece::encode(
    std::string_view text,
    std::size_t max_length) const {
  if (max_length < 2) {
    throw std::invalid_argument("WordPiece::encode: max_length is below 2");
  }
  std::vector<std::int64_t> ids{begin_};
  std::size_t start = 0;  // of the text not yet tokenised
  for (std::size_t at = text.find('['); at != std::string_view::npos;
       at = text.find('[', at + 1)) {
    for (const auto id : {pad_, unknown_, begin_, end_, mask_}) {
      if (text.substr(at).starts_with(token(id))) {
        add_text(text.substr(start, at - start), ids);
        ids.push_back(id);
        start = at + token(id).size();
        break;
      }
    }
  }
  add_text(text.substr(start), ids);
  if (ids.size() >= max_length) {
    ids.resize(max_length - 1);
  }
  ids.push_back(end_);
  return ids;
}

void WordPiece::add_text(std::string_view text, std::vector<std::int64_t>& ids)
    const {
  for (const auto& word : split_words(text)) {
    add_word(word, ids);
  }
}

void WordPiece::add_word(
    std::u32string_view word,
    std::vector<std::int64_t>& ids) const {
  if (word.size() > longest_word) {
    ids.push_back(unknown_);
    return;
  }
  const auto before = ids.size();
  for (std::size_t start = 0; start < word.size();) {
    std::size_t length = word.size() - start;
    for (; length > 0; --length) {
      const auto piece = encode_utf8(word.substr(start, length));
      const auto found = ids_.find(start == 0 ? piece : "##" + piece);
      if (found != ids_.end()) {
        ids.push_back(found->second);
        break;
      }
    }
    if (length == 0) {
      ids.resize(before);
      ids.push_back(unknown_);
      return;
    }
    start += length;
  }
}

}  // namespace finetune_text
