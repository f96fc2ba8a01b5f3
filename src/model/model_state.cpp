// SPDX-License-Identifier: Apache-2.0
#include "model/model_state.h"

#include <algorithm>
#include <map>

#include "base/text.h"
#include "peft/error.h"

namespace peft::detail {

AdapterRecord* ModelState::find(const std::string& name) const {
  for (const auto& adapter : adapters) {
    if (adapter->name == name) {
      return adapter.get();
    }
  }
  return nullptr;
}

AdapterRecord& ModelState::get(const std::string& name, const char* asking)
    const {
  if (AdapterRecord* found = find(name)) {
    return *found;
  }
  throw Error(
      ErrorKind::state,
      concat(
          "[",
          asking,
          "] the model has no adapter '",
          name,
          "'",
          did_you_mean(name, names()),
          "; it has ",
          list_names(names())));
}

std::vector<std::string> ModelState::names() const {
  std::vector<std::string> names;
  for (const auto& adapter : adapters) {
    names.push_back(adapter->name);
  }
  return names;
}

void ModelState::sort_by_method(std::vector<AdapterId>& ids) const {
  std::map<std::string, std::size_t> place_of_method;
  std::map<AdapterId, std::size_t> places;
  for (const auto& adapter : adapters) {
    places[adapter->id] =
        place_of_method
            .try_emplace(adapter->config->peft_type(), place_of_method.size())
            .first->second;
  }
  std::stable_sort(ids.begin(), ids.end(), [&](AdapterId a, AdapterId b) {
    return places.at(a) < places.at(b);
  });
}

std::shared_ptr<ModelState> find_state(const Host& host) {
  const auto is_this = [&](const Owner& owner) {
    const auto* state = dynamic_cast<const ModelState*>(&owner);
    return state && state->model == host.identity();
  };
  if (auto found = host.find_owner(is_this)) {
    return std::static_pointer_cast<ModelState>(found);
  }
  return nullptr;
}

std::shared_ptr<ModelState> get_state(const Host& host) {
  if (auto found = find_state(host)) {
    return found;
  }
  const auto other = host.find_owner([](const Owner& owner) {
    return dynamic_cast<const ModelState*>(&owner) != nullptr;
  });
  if (other) {
    const auto& state = static_cast<const ModelState&>(*other);
    throw Error(
        ErrorKind::state,
        concat(
            "the adapters ",
            list_names(state.names()),
            " in this ",
            host.type(),
            " were injected through another module, a ",
            state.model_type,
            "; pass that module instead"));
  }
  throw Error(
      ErrorKind::state,
      concat(
          "this ",
          host.type(),
          " has no adapters; call "
          "inject_adapter_in_model or load_adapter first"));
}

}  // namespace peft::detail
