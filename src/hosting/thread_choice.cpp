// SPDX-License-Identifier: Apache-2.0
#include "hosting/thread_choice.h"

#include <algorithm>
#include <vector>

#include "hosting/mixed_batch.h"

namespace peft::detail {
namespace {

// This thread's, the innermost last. Holds what another thread has ended, which
// a forward here may still be reading, until the next scope comes or goes.
struct Scopes {
  std::vector<std::shared_ptr<ThreadScope>> all;
  ~Scopes();
};
thread_local Scopes scopes;
// A static scope outlives them, and ends when they are gone.
thread_local bool scopes_are_gone = false;

Scopes::~Scopes() {
  scopes_are_gone = true;
}

void forget_ended() {
  if (!scopes_are_gone) {
    std::erase_if(
        scopes.all, [](const auto& scope) { return scope->ended.load(); });
  }
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
  if (scopes_are_gone) {
    return nullptr;
  }
  const auto& all = scopes.all;
  const auto found =
      std::find_if(all.rbegin(), all.rend(), [&](const auto& scope) {
        return scope->model.get() == &model &&
            !scope->ended.load(std::memory_order_relaxed);
      });
  return found == all.rend() ? nullptr : found->get();
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
  if (!scopes_are_gone) {
    scopes.all.push_back(scope_);
  }
}

ThreadChoice::~ThreadChoice() {
  scope_->ended = true;
  forget_ended();
}

}  // namespace peft::detail
