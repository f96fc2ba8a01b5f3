// SPDX-License-Identifier: Apache-2.0
// Which adapters run: the active set, on and off, taking adapters out.
#include <algorithm>
#include <map>

#include "base/text.h"
#include "base/warning.h"
#include "model/injection.h"
#include "model/model_state.h"
#include "peft/adapters.h"

namespace peft {
namespace {

using detail::AdapterRecord;
using detail::concat;
using detail::ModelState;
using detail::Target;

// A module that two of the chosen adapters want to replace by their own copy.
void check_saved_once(const std::vector<const AdapterRecord*>& chosen) {
  std::map<const detail::AdaptedWeight*, std::string> owner;
  for (const AdapterRecord* adapter : chosen) {
    for (const Target& target : adapter->targets) {
      if (target.role != detail::Role::saved_copy) {
        continue;
      }
      const auto [place, is_new] =
          owner.try_emplace(target.weight.get(), adapter->name);
      if (!is_new) {
        throw Error(
            ErrorKind::state,
            concat(
                "[set_adapter] '",
                place->second,
                "' and '",
                adapter->name,
                "' both have their own copy of '",
                target.layer_path,
                "' (modules_to_save); only one of them can be active"));
      }
    }
  }
}

// A row of an embedding that two of the chosen adapters replace.
void check_rows_once(const std::vector<const AdapterRecord*>& chosen) {
  using Row = std::pair<const detail::AdaptedWeight*, std::int64_t>;
  std::map<Row, std::string> owner;
  for (const AdapterRecord* adapter : chosen) {
    for (const Target& target : adapter->targets) {
      if (target.role != detail::Role::token_rows) {
        continue;
      }
      const at::Tensor tokens =
          target.attachment->parameters[1][0].to(at::kCPU).contiguous();
      for (std::int64_t i = 0; i < tokens.numel(); ++i) {
        const auto token = tokens.const_data_ptr<std::int64_t>()[i];
        const auto [place, is_new] =
            owner.try_emplace({target.weight.get(), token}, adapter->name);
        if (!is_new) {
          throw Error(
              ErrorKind::state,
              concat(
                  "[set_adapter] '",
                  place->second,
                  "' and '",
                  adapter->name,
                  "' both train row ",
                  token,
                  " of '",
                  target.layer_path,
                  "' (trainable_token_indices); only one of them can be "
                  "active"));
        }
      }
    }
  }
}

void activate(ModelState& state, const std::vector<std::string>& names) {
  if (names.empty()) {
    throw Error(
        ErrorKind::state,
        concat(
            "[set_adapter] no names were given; use enable_adapters(false) to "
            "run the base model (the model has ",
            detail::list_names(state.names()),
            ")"));
  }
  detail::Mistakes mistakes(ErrorKind::state, "[set_adapter]");
  std::vector<const AdapterRecord*> chosen;
  for (const auto& name : names) {
    const AdapterRecord* found = state.find(name);
    if (!found) {
      mistakes.add(concat(
          "the model has no adapter '",
          name,
          "'",
          detail::did_you_mean(name, state.names()),
          "; it has ",
          detail::list_names(state.names())));
    } else if (std::find(chosen.begin(), chosen.end(), found) == chosen.end()) {
      chosen.push_back(found);
    }
  }
  mistakes.raise_if_any();
  check_saved_once(chosen);
  check_rows_once(chosen);
  detail::ActiveSet next{state.activation->load()->enabled, {}};
  for (const AdapterRecord* adapter : chosen) {
    next.ids.push_back(adapter->id);
  }
  state.sort_by_method(next.ids);
  state.activation->store(std::move(next));
}

// Active adapters after `removed` has gone.
void activate_without(ModelState& state, const AdapterRecord& removed) {
  auto next = *state.activation->load();
  const auto was_active = std::erase(next.ids, removed.id) > 0;
  if (was_active && next.ids.empty()) {
    const AdapterRecord* first = nullptr;
    for (const auto& adapter : state.adapters) {
      if (adapter.get() != &removed &&
          (!first || adapter->name < first->name)) {
        first = adapter.get();
      }
    }
    if (first) {
      next.ids.push_back(first->id);
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
  for (const auto& adapter : state_->adapters) {
    if (!enabled && !adapter->biases.empty()) {
      detail::warn(concat(
          "adapter '",
          adapter->name,
          "' trains the model's own biases; disabling does not bring their "
          "old values back, unload() does"));
    }
  }
  auto next = *state_->activation->load();
  next.enabled = enabled;
  state_->activation->store(std::move(next));
}

void Adapters::delete_adapter(const std::string& name) {
  const AdapterRecord& record = state_->get(name, "delete_adapter");
  if (state_->adapters.size() == 1) {
    unload();
    return;
  }
  activate_without(*state_, record);
  detail::remove_from_layers(*state_, record);
  std::erase_if(
      state_->adapters, [&](const auto& a) { return a.get() == &record; });
}

void Adapters::unload() {
  state_->activation->store({true, {}});
  for (const auto& adapter : state_->adapters) {
    detail::remove_from_layers(*state_, *adapter);
  }
  state_->adapters.clear();
  detail::restore_requires_grad(*state_);
}

}  // namespace peft
