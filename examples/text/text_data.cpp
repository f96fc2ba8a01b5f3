// SPDX-License-Identifier: Apache-2.0
// Texts are shuffled by sorting them by a hash (64-bit FNV-1a), which any
// language can do in five lines.
#include "text_data.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <stdexcept>

#include "unicode.h"

namespace finetune_text {
namespace {

std::uint64_t hash(const std::string& text) {
  std::uint64_t value = 0xCBF29CE484222325;
  for (const char c : text) {
    value = (value ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  }
  return value;
}

// Adds the class `label` with `texts`: `train_count` to train, the next
// `test_count` to test.
void add_class(
    TextData& data,
    const std::string& label,
    std::vector<std::string> texts,
    std::size_t train_count,
    std::size_t test_count) {
  std::stable_sort(texts.begin(), texts.end(), [](auto& a, auto& b) {
    return hash(a) < hash(b);
  });
  const auto index = static_cast<std::int64_t>(data.labels.size());
  for (std::size_t i = 0; i < train_count + test_count; ++i) {
    auto& part = i < train_count ? data.train : data.test;
    part.push_back({std::move(texts[i]), index});
  }
  data.labels.push_back(label);
}

std::string stripped(const std::string& text) {
  const char* space = " \t\n\v\f\r";
  const auto first = text.find_first_not_of(space);
  if (first == std::string::npos) {
    return "";
  }
  return text.substr(first, text.find_last_not_of(space) + 1 - first);
}

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path)) {
    throw std::runtime_error("cannot read " + path.string());
  }
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (line.ends_with('\r')) {
      line.pop_back();
    }
    lines.push_back(line);
  }
  return lines;
}

// The entries of a fortune file, which lines of "%" end.
std::vector<std::string> read_fortunes(const std::filesystem::path& path) {
  std::vector<std::string> texts;
  std::string text;
  const auto end_text = [&] {
    text = stripped(text);
    const auto length = decode_utf8(text).size();
    if (length > 20 && length < 600) {
      texts.push_back(text);
    }
    text.clear();
  };
  for (const auto& line : lines_of(path)) {
    if (line == "%") {
      end_text();
    } else {
      text += line + "\n";
    }
  }
  end_text();
  return texts;
}

// "1, 2, 3 and 7 more"
std::string first_few(const std::vector<std::size_t>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size() && i < 5; ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(numbers[i]);
  }
  return numbers.size() <= 5
      ? text
      : text + " and " + std::to_string(numbers.size() - 5) + " more";
}

// The texts of each label.
std::map<std::string, std::vector<std::string>> read_tsv(
    const std::filesystem::path& path) {
  std::map<std::string, std::vector<std::string>> texts;
  std::vector<std::size_t> malformed;
  std::size_t number = 0;
  for (const auto& line : lines_of(path)) {
    ++number;
    if (stripped(line).empty() && line.find('\t') == std::string::npos) {
      continue;
    }
    const auto tab = line.find('\t');
    const auto label = stripped(line.substr(0, tab));
    const auto text =
        tab == std::string::npos ? "" : stripped(line.substr(tab + 1));
    if (label.empty() || text.empty()) {
      malformed.push_back(number);
    } else {
      texts[label].push_back(text);
    }
  }
  if (!malformed.empty()) {
    throw std::runtime_error(
        path.string() + ": not label<TAB>text in line " + first_few(malformed));
  }
  return texts;
}

}  // namespace

TextData load_fortunes(const std::filesystem::path& directory) {
  if (!std::filesystem::is_directory(directory)) {
    throw std::runtime_error(
        "no folder " + directory.string() +
        " (hint: install Debian's package fortunes, or give --data FILE.tsv)");
  }
  TextData data;
  for (const char* category :
       {"computers",
        "definitions",
        "politics",
        "science",
        "songs-poems",
        "zippy"}) {
    auto texts = read_fortunes(directory / category);
    if (texts.size() < 500) {
      throw std::runtime_error(
          (directory / category).string() + " has " +
          std::to_string(texts.size()) +
          " texts of 21 to 599 characters; 500 are needed");
    }
    add_class(data, category, std::move(texts), 400, 100);
  }
  return data;
}

TextData load_tsv(const std::filesystem::path& path) {
  auto texts = read_tsv(path);
  if (texts.size() < 2) {
    throw std::runtime_error(
        path.string() + " has " + std::to_string(texts.size()) +
        " labels; two at least are needed");
  }
  TextData data;
  for (auto& [label, of_label] : texts) {
    if (of_label.size() < 2) {
      throw std::runtime_error(
          path.string() + ": label '" + label + "' has one text; it needs one" +
          " to train and one to test at least");
    }
    const auto test_count = std::max<std::size_t>(1, of_label.size() / 5);
    const auto train_count = of_label.size() - test_count;
    add_class(data, label, std::move(of_label), train_count, test_count);
  }
  return data;
}

}  // namespace finetune_text
