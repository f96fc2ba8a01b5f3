// SPDX-License-Identifier: Apache-2.0
// BERT's uncased WordPiece tokenizer: text in, token numbers out, the same as
// Hugging Face's BertTokenizer gives for the same vocab.txt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace finetune_text {

class WordPiece {
 public:
  /// `vocabulary`: vocab.txt, one token a line; a token's number is its line's,
  /// counted from 0. Throws std::runtime_error when it cannot be used.
  explicit WordPiece(const std::filesystem::path& vocabulary);

  /// [CLS] text [SEP], cut to `max_length` numbers in all.
  /// Special tokens that stand in the text ("[MASK]") are taken as such.
  /// Safe to call from several threads.
  std::vector<std::int64_t> encode(
      std::string_view text,
      std::size_t max_length) const;

  const std::string& token(std::int64_t id) const { return tokens_.at(id); }
  std::size_t size() const { return tokens_.size(); }
  std::int64_t pad() const { return pad_; }

 private:
  std::int64_t special(const std::string& token) const;
  void add_text(std::string_view text, std::vector<std::int64_t>& ids) const;
  void add_word(std::u32string_view word, std::vector<std::int64_t>& ids) const;

  std::vector<std::string> tokens_;
  std::unordered_map<std::string, std::int64_t> ids_;
  std::int64_t pad_, unknown_, begin_, end_, mask_;
};

}  // namespace finetune_text
