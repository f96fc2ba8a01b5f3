// SPDX-License-Identifier: Apache-2.0
#include "hosting/thread_choice.h"

#include <algorithm>
#include <vector>

#include "hosting/mixed_batch.h"

namespace peft::detail {
namespace {

// This thread's, the innermost last. Holds what another thread has ended, which
// a forward here may still be reading, until the next scope comes or goes.
thread_local std::vector<std::shared_ptr<ThreadScope>> scopes;

void forget_ended() {
  std::erase_if(scopes, [](const auto& scope) { return scope->ended.load(); });
}

}  // namespace

Running running(const Activation& model) {
  if (const ThreadScope* scope = ThreadChoice::innermost(model)) {
    // The scope holds it: no count that threads share is touched.
    return {nullptr, scope->choice.get(), scope->scale, scope->batch.get()};
  }
  auto held = model.load();
  const Choice* choice = held.get();
  return {std::move(held), choice};
}

const ThreadScope* ThreadChoice::innermost(const Activation& model) {
  const auto found =
      std::find_if(scopes.rbegin(), scopes.rend(), [&](const auto& scope) {
        return scope->model.get() == &model &&
            !scope->ended.load(std::memory_order_relaxed);
      });
  return found == scopes.rend() ? nullptr : found->get();
}

ThreadChoice::ThreadChoice(
    std::shared_ptr<const Activation> model,
    std::shared_ptr<const Choice> choice,
    double scale,
    std::shared_ptr<const MixedBatch> batch)
    : scope_(new ThreadScope{
          std::move(model),
          std::move(choice),
          scale,
          std::move(batch)}) {
  forget_ended();
  scopes.push_back(scope_);
}

ThreadChoice::~ThreadChoice() {
  scope_->ended = true;
  forget_ended();
}

}  // namespace peft::detail
