// SPDX-License-Identifier: Apache-2.0
// Which adapters run: the active set, on and off, taking adapters out.
#include "base/text.h"
#include "base/warning.h"
#include "model/about_adapter.h"
#include "model/choose.h"
#include "model/injection.h"
#include "peft/adapters.h"

namespace peft {
namespace {

using detail::AdapterRecord;
using detail::concat;
using detail::ModelState;

void activate(ModelState& state, const std::vector<std::string>& names) {
  const auto turn = state.lock();
  const auto chosen = detail::find_adapters(state, names, "set_adapter");
  detail::choose(state, detail::in_order(chosen), "set_adapter");
}

// Active adapters after `removed` has gone.
void activate_without(ModelState& state, const AdapterRecord& removed) {
  auto next = *state.activation->load();
  const auto was_active = std::erase(next.adapters, removed.attached) > 0;
  if (was_active && next.adapters.empty()) {
    const AdapterRecord* first = nullptr;
    for (const auto& adapter : state.adapters) {
      if (adapter.get() != &removed &&
          (!first || adapter->name < first->name)) {
        first = adapter.get();
      }
    }
    if (first) {
      next.adapters.push_back(first->attached);
      detail::warn(concat(
          "adapter '",
          removed.name,
          "' was active and is deleted; '",
          first->name,
          "' is active now"));
    }
  }
  state.activation->store(std::move(next));
}

}  // namespace

void Adapters::set_adapter(const std::string& name) {
  activate(*state_, {name});
}

void Adapters::set_adapter(const std::vector<std::string>& names) {
  activate(*state_, names);
}

void Adapters::set_adapter(std::initializer_list<std::string> names) {
  activate(*state_, names);
}

void Adapters::enable_adapters(bool enabled) {
  const auto turn = state_->lock();
  auto next = *state_->activation->load();
  next.enabled = enabled;
  state_->activation->store(std::move(next));
}

void Adapters::delete_adapter(const std::string& name) {
  const auto turn = state_->lock();
  const AdapterRecord& record = state_->get(name, "delete_adapter");
  if (state_->is_merged(record)) {
    throw Error(
        ErrorKind::state,
        concat(
            detail::about_adapter("delete_adapter", name),
            " is merged; call unmerge_adapter first, or merge_and_unload to "
            "keep what it does"));
  }
  if (state_->adapters.size() == 1) {
    unload();
    return;
  }
  activate_without(*state_, record);
  state_->roster.erase(name);
  detail::remove_from_layers(record);
  std::erase_if(
      state_->adapters, [&](const auto& a) { return a.get() == &record; });
}

void Adapters::unload() {
  const auto turn = state_->lock();
  state_->activation->store({});
  state_->roster.clear();
  for (const auto& adapter : state_->adapters) {
    detail::remove_from_layers(*adapter);
  }
  state_->adapters.clear();
  detail::put_bases_back(*state_, 0);
  detail::restore_requires_grad(*state_);
}

}  // namespace peft
