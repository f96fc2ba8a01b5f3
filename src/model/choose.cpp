// SPDX-License-Identifier: Apache-2.0
#include "model/choose.h"

#include <algorithm>
#include <map>

#include "base/text.h"
#include "base/warning.h"
#include "model/residence.h"

namespace peft::detail {
namespace {

// A weight, or one row of it, that an adapter replaces.
using Place = std::pair<const AdaptedWeight*, std::int64_t>;
constexpr std::int64_t all_rows = -1;

std::vector<std::int64_t> replaced_rows(const Target& target) {
  if (target.is_copy()) {
    return {all_rows};
  }
  if (target.role != Role::token_rows) {
    return {};
  }
  const at::Tensor tokens =
      target.attachment->parameters[1][0].to(at::kCPU).contiguous();
  const auto* first = tokens.const_data_ptr<std::int64_t>();
  return {first, first + tokens.numel()};
}

const char* origin_of(const Target& target) {
  switch (target.role) {
    case Role::saved_copy:
      return "modules_to_save";
    case Role::token_rows:
      return "trainable_token_indices";
    case Role::trained_bias:
      return "bias in the config";
    case Role::own_base:
      return "base_layer in its file";
    case Role::adapter:
      break;
  }
  return "target_modules";
}

void check_replaced_once(const Chosen& chosen, const char* asking) {
  std::map<Place, std::string> owners;
  for (const AdapterRecord* adapter : chosen) {
    for (const Target& target : adapter->targets) {
      for (const std::int64_t row : replaced_rows(target)) {
        const auto [owner, is_first] =
            owners.try_emplace({target.weight.get(), row}, adapter->name);
        if (!is_first) {
          throw Error(
              ErrorKind::state,
              concat(
                  "[",
                  asking,
                  "] '",
                  owner->second,
                  "' and '",
                  adapter->name,
                  row == all_rows ? "' both have their own copy of '"
                                  : concat("' both train row ", row, " of '"),
                  target.layer_path,
                  "' (",
                  origin_of(target),
                  ")",
                  "; only one of them can be active"));
        }
      }
    }
  }
}

// An adapter with a vocabulary of its own size, and others that are on the same
// weight with the base's.
void check_same_rows(const Chosen& chosen, const char* asking) {
  std::map<const AdaptedWeight*, std::pair<std::int64_t, std::string>> rows;
  for (const AdapterRecord* adapter : chosen) {
    for (const Target& target : adapter->targets) {
      const auto& copy = target.attachment->parameters;
      if (target.is_copy() && copy[0].sizes() != target.base.sizes()) {
        rows[target.weight.get()] = {copy[0].size(0), adapter->name};
      }
    }
  }
  if (rows.empty()) {
    return;
  }
  for (const AdapterRecord* adapter : chosen) {
    for (const Target& target : adapter->targets) {
      const auto found = rows.find(target.weight.get());
      if (target.role == Role::adapter && found != rows.end() &&
          target.ground().size(0) != found->second.first) {
        throw Error(
            ErrorKind::state,
            concat(
                "[",
                asking,
                "] '",
                found->second.second,
                "' has its own '",
                join_path(target.layer_path, target.tensor_name),
                "' with ",
                found->second.first,
                " rows, and '",
                adapter->name,
                "' is made for ",
                target.ground().size(0),
                "; only one of them can be active"));
      }
    }
  }
}

}  // namespace

std::string no_such_adapter(const ModelState& state, const std::string& name) {
  return concat(
      "the model has no adapter '",
      name,
      "'",
      did_you_mean(name, state.names()),
      "; it has ",
      list_names(state.names()),
      name == no_adapter ? ", and a DisableAdapters scope runs the base model"
                         : "");
}

std::vector<AdapterRecord*> look_up(
    const ModelState& state,
    const std::vector<std::string>& names,
    Mistakes& mistakes) {
  std::vector<AdapterRecord*> records;
  for (const auto& name : names) {
    AdapterRecord* found = state.find(name);
    if (!found) {
      mistakes.add(no_such_adapter(state, name));
    } else if (
        std::find(records.begin(), records.end(), found) != records.end()) {
      mistakes.add(concat("adapter '", name, "' is named twice"));
      found = nullptr;
    }
    records.push_back(found);
  }
  return records;
}

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
  Mistakes mistakes(ErrorKind::state, concat("[", asking, "] wrong names"));
  const auto chosen = look_up(state, names, mistakes);
  mistakes.raise_if_any();
  make_resident(state, chosen);
  const Chosen found(chosen.begin(), chosen.end());
  check_replaced_once(found, asking);
  check_same_rows(found, asking);
  return found;
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
