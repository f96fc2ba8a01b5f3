// SPDX-License-Identifier: Apache-2.0
// Merged weights stand beside the untouched bases until the adapters go.
#include "model/merge.h"

#include <algorithm>

#include "base/text.h"
#include "base/warning.h"
#include "model/merging.h"

namespace peft {
namespace detail {

void merge(
    ModelState& state,
    const std::vector<std::string>& given,
    const char* asking) {
  const auto turn = state.lock();
  const auto names = active_or(state, given, asking);
  Choice next = *state.activation->load();
  std::vector<std::string> merged_before;
  if (next.merged) {
    merged_before = state.names(next.merged->adapters());
  }
  auto all = merged_before;
  for (const auto& name : names) {
    if (std::find(merged_before.begin(), merged_before.end(), name) ==
        merged_before.end()) {
      all.push_back(name);
    }
  }
  const Chosen chosen = find_adapters(state, all, asking);
  if (all.size() == merged_before.size()) {
    warn(concat(
        "[",
        asking,
        "] ",
        list_names(all),
        " are merged already, no more to do"));
    return;
  }
  if (!merged_before.empty()) {
    warn(concat(
        "[",
        asking,
        "] ",
        list_names(merged_before),
        " are merged already; the others are merged beside them"));
  }
  Merging merging(state, chosen, asking);
  auto merged = std::make_shared<MergedWeights>(merging.adapters());
  merging.run([&](const Site& site, MergedWeight weight) {
    merged->add(*site.weight, std::move(weight));
  });
  next.merged = std::move(merged);
  state.activation->store(std::move(next));
}

NamedTensors merged_tensors(ModelState& state, const char* asking) {
  const auto choice = state.activation->load();
  const auto names = choice->merged ? state.names(choice->merged->adapters())
                                    : active_or(state, {}, asking);
  Merging merging(state, find_adapters(state, names, asking), asking);
  NamedTensors tensors;
  merging.run([&](const Site& site, MergedWeight merged) {
    check_is_stored(merging, state, site);
    check_has_bias(merging, site, merged);
    tensors.emplace_back(site.name, std::move(merged.weight));
  });
  merging.raise_if_any();
  return tensors;
}

}  // namespace detail

using namespace detail;

void Adapters::merge_adapter(const std::vector<std::string>& names) {
  merge(*state_, names, "merge_adapter");
}

void Adapters::unmerge_adapter() {
  const auto turn = state_->lock();
  Choice next = *state_->activation->load();
  if (!next.merged) {
    warn("[unmerge_adapter] no adapter is merged, nothing to do");
    return;
  }
  next.merged = nullptr;
  state_->activation->store(std::move(next));
}

std::vector<std::string> Adapters::merged_adapters() const {
  const auto turn = state_->lock();
  const auto choice = state_->activation->load();
  return choice->merged ? state_->names(choice->merged->adapters())
                        : std::vector<std::string>();
}

void merge_adapter(
    torch::nn::Module& model,
    const std::vector<std::string>& adapter_names) {
  adapters_of(model).merge_adapter(adapter_names);
}

void unmerge_adapter(torch::nn::Module& model) {
  adapters_of(model).unmerge_adapter();
}

}  // namespace peft
