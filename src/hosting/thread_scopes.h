// SPDX-License-Identifier: Apache-2.0
// The scopes of one kind that are open in a thread. A scope begins and ends in
// one thread, in any order; where another thread ends it, it counts no more in
// its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

namespace peft::detail {

/// `Scope` has std::atomic<bool> ended.
template <class Scope>
class ThreadScopes {
 public:
  static void begin(std::shared_ptr<Scope> scope) {
    forget_ended();
    if (!are_gone) {
      open.all.push_back(std::move(scope));
    }
  }

  static void end(Scope& scope) {
    scope.ended = true;
    forget_ended();
  }

  /// This thread's innermost of those that `wanted` accepts, or nullptr.
  template <class Wanted>
  static const Scope* innermost(const Wanted& wanted) {
    if (are_gone) {
      return nullptr;
    }
    const auto found =
        std::find_if(open.all.rbegin(), open.all.rend(), [&](const auto& s) {
          return wanted(*s) && !s->ended.load(std::memory_order_relaxed);
        });
    return found == open.all.rend() ? nullptr : found->get();
  }

 private:
  // The innermost last. Holds what another thread has ended, which a forward
  // here may still be reading, until the next scope comes or goes.
  struct Open {
    std::vector<std::shared_ptr<Scope>> all;
    ~Open() { are_gone = true; }
  };

  static void forget_ended() {
    if (!are_gone) {
      std::erase_if(
          open.all, [](const auto& scope) { return scope->ended.load(); });
    }
  }

  inline static thread_local Open open;
  // A static scope outlives them, and ends when they are gone.
  inline static thread_local bool are_gone = false;
};

}  // namespace peft::detail
