// SPDX-License-Identifier: Apache-2.0
// Catches the library's warnings for as long as it lives.
#pragma once

#include <string>
#include <vector>

#include "peft/error.h"

namespace peft_test {

class CollectWarnings {
 public:
  CollectWarnings()
      : old_(peft::set_warning_handler(
            [this](const std::string& text) { texts_.push_back(text); })) {}
  ~CollectWarnings() { peft::set_warning_handler(old_); }
  CollectWarnings(const CollectWarnings&) = delete;
  CollectWarnings& operator=(const CollectWarnings&) = delete;

  std::size_t size() const { return texts_.size(); }

  std::string all() const {
    std::string all;
    for (const auto& text : texts_) {
      all += text + "\n";
    }
    return all;
  }

 private:
  std::vector<std::string> texts_;
  peft::WarningHandler old_;
};

}  // namespace peft_test
