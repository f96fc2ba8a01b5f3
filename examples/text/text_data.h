// SPDX-License-Identifier: Apache-2.0
// Labelled texts to train and to test on: Debian's fortunes, or a file of the
// user's. The split depends on the texts alone, never on a seed, so that runs
// and languages can be compared (text_data.py makes the same one).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace finetune_text {

struct Example {
  std::string text;
  std::int64_t label;  ///< index into TextData::labels
};

struct TextData {
  std::vector<std::string> labels;
  std::vector<Example> train, test;
};

/// Six categories of the package `fortunes`: texts of 21 to 599 characters,
/// 400 to train and 100 to test from each.
/// Throws std::runtime_error when the package is not installed.
TextData load_fortunes(
    const std::filesystem::path& directory = "/usr/share/games/fortunes");

/// A file with a line "label<TAB>text" for each example, in UTF-8; empty lines
/// are skipped. Labels are sorted; of each, a fifth (one at least) is kept to
/// test. Throws std::runtime_error naming the lines that are not like that, or
/// the labels with less than two texts.
TextData load_tsv(const std::filesystem::path& path);

}  // namespace finetune_text
