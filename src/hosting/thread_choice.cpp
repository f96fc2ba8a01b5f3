// SPDX-License-Identifier: Apache-2.0
#include "hosting/thread_choice.h"

#include "hosting/mixed_batch.h"

namespace peft::detail {
namespace {

thread_local ThreadChoice* last = nullptr;

}  // namespace

Running running(const Activation& model) {
  if (const ThreadChoice* scope = ThreadChoice::innermost(model)) {
    // The scope holds it: no count that threads share is touched.
    return {
        nullptr, scope->choice().get(), scope->scale(), scope->batch().get()};
  }
  auto held = model.load();
  const Choice* choice = held.get();
  return {std::move(held), choice};
}

const ThreadChoice* ThreadChoice::innermost(const Activation& model) {
  const ThreadChoice* scope = last;
  while (scope && scope->model_.get() != &model) {
    scope = scope->outer_;
  }
  return scope;
}

ThreadChoice::ThreadChoice(
    std::shared_ptr<const Activation> model,
    std::shared_ptr<const Choice> choice,
    double scale,
    std::shared_ptr<const MixedBatch> batch)
    : model_(std::move(model)),
      choice_(std::move(choice)),
      scale_(scale),
      batch_(std::move(batch)),
      outer_(last) {
  last = this;
}

ThreadChoice::~ThreadChoice() {
  // Scopes on the heap may end in any order.
  for (ThreadChoice** link = &last; *link; link = &(*link)->outer_) {
    if (*link == this) {
      *link = outer_;
      return;
    }
  }
}

}  // namespace peft::detail
