// SPDX-License-Identifier: Apache-2.0
#include "matching/python_regex.h"

#include <cctype>
#include <string_view>

namespace peft::detail {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

class Translator {
 public:
  explicit Translator(const std::string& regex) : regex_(regex) {}

  PcreSyntax run() {
    while (at_ < regex_.size()) {
      const char c = regex_[at_];
      if (c == '\\') {
        escape();
      } else if (in_set_) {
        set_member(c);
      } else if (c == '[') {
        open_set();
      } else if (c == '{') {
        brace();
      } else if (starts_with("(?#")) {
        comment();
      } else {
        copy(1);
      }
    }
    return std::move(result_);
  }

 private:
  bool starts_with(std::string_view text) const {
    return std::string_view(regex_).substr(at_).starts_with(text);
  }

  // Puts `text` in the place of the next `length` bytes.
  void put(const std::string& text, std::size_t length) {
    result_.text += text;
    result_.origin.insert(result_.origin.end(), text.size(), at_);
    at_ += length;
  }

  void copy(std::size_t length) {
    for (; length > 0 && at_ < regex_.size(); --length) {
      put(std::string(1, regex_[at_]), 1);
    }
  }

  void escape() {
    const char next = at_ + 1 < regex_.size() ? regex_[at_ + 1] : '\0';
    if (next == 'Z' && !in_set_) {
      put("\\z", 2);
    } else if (next == 'u' && hex_digits(4)) {
      put("\\x{" + regex_.substr(at_ + 2, 4) + "}", 6);
    } else if (next == 'U' && hex_digits(8)) {
      put("\\x{" + regex_.substr(at_ + 2, 8) + "}", 10);
    } else {
      copy(2);
    }
  }

  bool hex_digits(std::size_t count) const {
    if (at_ + 2 + count > regex_.size()) {
      return false;
    }
    for (std::size_t i = at_ + 2; i < at_ + 2 + count; ++i) {
      if (!std::isxdigit(static_cast<unsigned char>(regex_[i]))) {
        return false;
      }
    }
    return true;
  }

  void open_set() {
    in_set_ = true;
    copy(starts_with("[^") ? 2 : 1);
    if (starts_with("]")) {
      put("\\]", 1);  // a ']' in first place belongs to the set
    }
  }

  void set_member(char c) {
    if (c == '[') {
      put("\\[", 1);
      return;
    }
    in_set_ = c != ']';
    copy(1);
  }

  // "{2}", "{2,}", "{,3}" and "{2,3}" repeat; every other brace is a brace.
  void brace() {
    std::size_t i = at_ + 1;
    const auto digits = [&] {
      std::string found;
      for (; i < regex_.size() && is_digit(regex_[i]); ++i) {
        found += regex_[i];
      }
      return found;
    };
    const std::string least = digits();
    const bool range = i < regex_.size() && regex_[i] == ',';
    i += range ? 1 : 0;
    const std::string most = range ? digits() : "";
    const bool closed = i < regex_.size() && regex_[i] == '}';
    if (!closed || (least.empty() && !range)) {
      put("\\{", 1);
      return;
    }
    const std::string low = least.empty() ? "0" : least;
    put("{" + low + (range ? "," + most : "") + "}", i + 1 - at_);
  }

  void comment() {
    const std::size_t end = regex_.find(')', at_);
    copy(end == std::string::npos ? regex_.size() - at_ : end + 1 - at_);
  }

  const std::string& regex_;
  std::size_t at_ = 0;
  bool in_set_ = false;
  PcreSyntax result_;
};

}  // namespace

PcreSyntax to_pcre_syntax(const std::string& python_regex) {
  return Translator(python_regex).run();
}

}  // namespace peft::detail
