// SPDX-License-Identifier: Apache-2.0
#include "hosting/thread_choice.h"

#include "hosting/mixed_batch.h"
#include "hosting/thread_scopes.h"

namespace peft::detail {

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
  return ThreadScopes<ThreadScope>::innermost(
      [&](const ThreadScope& scope) { return scope.model.get() == &model; });
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
  ThreadScopes<ThreadScope>::begin(scope_);
}

ThreadChoice::~ThreadChoice() {
  ThreadScopes<ThreadScope>::end(*scope_);
}

}  // namespace peft::detail
