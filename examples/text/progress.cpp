// SPDX-License-Identifier: Apache-2.0
#include "progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace finetune_text {
namespace {

std::string bar(double share) {
  constexpr int width = 12;
  const auto filled = static_cast<std::size_t>(share * width);
  std::string text(filled, '=');
  text.resize(width, ' ');
  return text;
}

}  // namespace

Progress::Progress(std::int64_t steps, std::int64_t texts)
    : steps_(steps),
      texts_(texts),
      terminal_(isatty(STDOUT_FILENO) != 0),
      start_(std::chrono::steady_clock::now()) {}

double Progress::seconds() const {
  const auto passed = std::chrono::steady_clock::now() - start_;
  return std::chrono::duration<double>(passed).count();
}

void Progress::step(double loss) {
  loss_ = done_ == 0 ? loss : 0.8 * loss_ + 0.2 * loss;
  ++done_;
  if (terminal_) {
    print(true);
  } else if (done_ * 10 / steps_ != (done_ - 1) * 10 / steps_) {
    print(false);
  }
}

void Progress::print(bool redraw) const {
  const double share = static_cast<double>(done_) / static_cast<double>(steps_);
  const double per_step = seconds() / static_cast<double>(done_);
  const auto left =
      static_cast<long>(per_step * static_cast<double>(steps_ - done_) + 0.5);
  std::printf(
      "%s[%s] %ld/%ld  loss %.3f  %.1f texts/s  %.3f s/step  %ld:%02ld left%s",
      redraw ? "\r" : "",
      bar(share).c_str(),
      static_cast<long>(done_),
      static_cast<long>(steps_),
      loss_,
      static_cast<double>(texts_) * share / seconds(),
      per_step,
      left / 60,
      left % 60,
      redraw ? "\x1b[K" : "\n");
  std::fflush(stdout);
}

void Progress::finish() const {
  std::printf(
      "%s%ld steps in %.1f s: %.3f s/step\n",
      terminal_ ? "\n" : "",
      static_cast<long>(done_),
      seconds(),
      seconds() / static_cast<double>(std::max<std::int64_t>(done_, 1)));
}

}  // namespace finetune_text
