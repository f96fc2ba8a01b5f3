// SPDX-License-Identifier: Apache-2.0
// Collects every mistake of one config, file or call, so that they are
// reported together in one peft::Error instead of one per attempt.
#pragma once

#include <string>
#include <vector>

#include "peft/error.h"

namespace peft::detail {

class Mistakes {
 public:
  /// `heading` says what was being attempted: "cannot inject adapter 'a'".
  Mistakes(ErrorKind kind, std::string heading)
      : kind_(kind), heading_(std::move(heading)) {}

  /// `text` says what was found and what to do, without a full stop.
  void add(std::string text) { texts_.push_back(std::move(text)); }
  /// As above; the error will be of `kind` when this is its first mistake.
  void add(ErrorKind kind, std::string text);

  /// What the error would say.
  std::string text() const;

  bool any() const { return !texts_.empty(); }
  /// Throws peft::Error naming all mistakes (at most 20 in full) if there are
  /// any: on one line for one mistake, as a list for several.
  void raise_if_any() const;

 private:
  ErrorKind kind_;
  std::string heading_;
  std::vector<std::string> texts_;
};

}  // namespace peft::detail
