// SPDX-License-Identifier: Apache-2.0
// What one thread runs in a model in place of the model's own choice, for as
// long as a scope lives.
#pragma once

#include <atomic>
#include <memory>

#include "hosting/choice.h"

namespace peft::detail {

class MixedBatch;

/// What this thread runs in a model now.
struct Running {
  std::shared_ptr<const Choice> held;  // none: a scope holds the choice
  const Choice* choice;
  double scale = 1;                   // multiplies every adapter's own
  const MixedBatch* batch = nullptr;  // set: in place of `choice`
};

Running running(const Activation& model);

/// One thread's scope for one model.
struct ThreadScope {
  std::shared_ptr<const Activation> model;
  std::shared_ptr<const Choice> choice;
  double scale = 1;
  std::shared_ptr<const MixedBatch> batch = nullptr;
  std::atomic<bool> ended = false;
};

/// Scopes of one thread nest: the innermost for a model counts. Begins and ends
/// in one thread; where it ends in another, it counts no more in its own.
class ThreadChoice {
 public:
  ThreadChoice(
      std::shared_ptr<const Activation> model,
      std::shared_ptr<const Choice> choice,
      double scale = 1,
      std::shared_ptr<const MixedBatch> batch = nullptr);
  ~ThreadChoice();
  ThreadChoice(const ThreadChoice&) = delete;
  ThreadChoice& operator=(const ThreadChoice&) = delete;

  /// This thread's innermost for a model, or nullptr.
  static const ThreadScope* innermost(const Activation& model);

 private:
  const std::shared_ptr<ThreadScope> scope_;
};

}  // namespace peft::detail
