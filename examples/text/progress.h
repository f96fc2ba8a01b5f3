// SPDX-License-Identifier: Apache-2.0
// How far the training is: a bar that is redrawn on a terminal, ten lines in a
// log. Loss, speed and the time left.
#pragma once

#include <chrono>
#include <cstdint>

namespace finetune_text {

class Progress {
 public:
  /// `texts`: how many texts the `steps` steps see in all.
  Progress(std::int64_t steps, std::int64_t texts);
  void step(double loss);
  /// Ends the bar and prints the time the steps took.
  void finish() const;

 private:
  double seconds() const;
  void print(bool redraw) const;

  std::int64_t steps_, texts_, done_ = 0;
  double loss_ = 0;  // smoothed
  bool terminal_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace finetune_text
