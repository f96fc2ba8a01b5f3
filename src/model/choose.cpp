// SPDX-License-Identifier: Apache-2.0
#include "model/choose.h"

#include <algorithm>
#include <map>

#include "base/text.h"
#include "base/warning.h"
#include "model/residence.h"

namespace peft::detail {
namespace {

// A module that two of the chosen adapters want to replace by their own copy.
void check_saved_once(const Chosen& chosen, const char* asking) {
  std::map<const AdaptedWeight*, std::string> owner;
  for (const AdapterRecord* adapter : chosen) {
    for (const Target& target : adapter->targets) {
      if (target.role != Role::saved_copy) {
        continue;
      }
      const auto [place, is_new] =
          owner.try_emplace(target.weight.get(), adapter->name);
      if (!is_new) {
        throw Error(
            ErrorKind::state,
            concat(
                "[",
                asking,
                "] '",
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
void check_rows_once(const Chosen& chosen, const char* asking) {
  using Row = std::pair<const AdaptedWeight*, std::int64_t>;
  std::map<Row, std::string> owner;
  for (const AdapterRecord* adapter : chosen) {
    for (const Target& target : adapter->targets) {
      if (target.role != Role::token_rows) {
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
                  "[",
                  asking,
                  "] '",
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

}  // namespace

Chosen find_adapters(
    ModelState& state,
    const std::vector<std::string>& names,
    const char* asking) {
  if (names.empty()) {
    throw Error(
        ErrorKind::state,
        concat(
            "[",
            asking,
            "] no names were given; the model has ",
            list_names(state.names()),
            ", and enable_adapters(false) or a DisableAdapters scope runs the "
            "base model"));
  }
  Mistakes mistakes(ErrorKind::state, concat("[", asking, "]"));
  Chosen chosen;
  for (const auto& name : names) {
    AdapterRecord* found = state.find(name);
    if (!found) {
      mistakes.add(concat(
          "the model has no adapter '",
          name,
          "'",
          did_you_mean(name, state.names()),
          "; it has ",
          list_names(state.names())));
    } else if (std::find(chosen.begin(), chosen.end(), found) == chosen.end()) {
      chosen.push_back(found);
    }
  }
  mistakes.raise_if_any();
  for (const auto& name : names) {
    make_resident(state, *state.find(name));
  }
  check_saved_once(chosen, asking);
  check_rows_once(chosen, asking);
  return chosen;
}

AttachedAdapters in_order(const Chosen& chosen) {
  AttachedAdapters adapters;
  for (const AdapterRecord* record : chosen) {
    adapters.push_back(record->attached);
  }
  std::stable_sort(
      adapters.begin(), adapters.end(), [](const auto& a, const auto& b) {
        return a->order() < b->order();
      });
  return adapters;
}

void choose(ModelState& state, AttachedAdapters adapters, const char* asking) {
  Choice next = *state.activation->load();
  next.adapters = std::move(adapters);
  if (next.merged) {
    warn(concat(
        "[",
        asking,
        "] the adapters ",
        list_names(state.names(next.merged->adapters())),
        " were merged; the model is unmerged first"));
    next.merged = nullptr;
  }
  state.activation->store(std::move(next));
}

}  // namespace peft::detail
