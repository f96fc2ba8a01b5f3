// SPDX-License-Identifier: Apache-2.0
#include "base/mistakes.h"

#include "base/text.h"

namespace peft::detail {

void Mistakes::add(ErrorKind kind, std::string text) {
  if (texts_.empty()) {
    kind_ = kind;
  }
  texts_.push_back(std::move(text));
}

std::string Mistakes::text() const {
  if (texts_.size() == 1) {
    return concat(heading_, ": ", texts_.front());
  }
  constexpr size_t most = 20;
  std::string all = concat(heading_, ": ", texts_.size(), " mistakes");
  for (size_t i = 0; i < texts_.size() && i < most; ++i) {
    all += concat("\n  - ", texts_[i]);
  }
  if (texts_.size() > most) {
    all += concat("\n  ... and ", texts_.size() - most, " more");
  }
  return all;
}

void Mistakes::raise_if_any() const {
  if (any()) {
    throw Error(kind_, text());
  }
}

}  // namespace peft::detail
