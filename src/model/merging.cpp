// SPDX-License-Identifier: Apache-2.0
#include "model/merging.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>

#include "base/text.h"
#include "hosting/program_layers.h"
#include "methods/finite.h"
#include "model/adapter_tensors.h"

namespace peft::detail {
namespace {

// Values that are no numbers where the base had some.
bool is_broken(const at::Tensor& merged, const at::Tensor& base) {
  if (is_finite(merged)) {
    return false;
  }
  return merged.sizes() != base.sizes() ||
      (base.isfinite() & ~merged.isfinite()).any().item<bool>();
}

}  // namespace

Merging::Merging(
    const ModelState& state,
    const Chosen& chosen,
    const char* asking)
    : state_(state),
      adapters_(in_order(chosen)),
      mistakes_(
          ErrorKind::state,
          concat(
              "[",
              asking,
              "] cannot merge ",
              list_names(state.names(adapters_)))) {
  for (const AdapterRecord* record : chosen) {
    check_filled(*record, asking);
  }
  for (const Site& site : state.sites) {
    if (site.weight->is_touched_by(adapters_)) {
      sites_.push_back(&site);
    }
  }
}

void Merging::run(const std::function<void(const Site&, MergedWeight)>& use) {
  for (const Site* site : sites_) {
    if (is_set_anew(*site)) {
      add(*site, set_anew_text(site->name));
      continue;
    }
    try {
      MergedWeight merged = site->weight->merged_with(adapters_);
      if (is_broken(merged.weight, site->weight->base()) ||
          (merged.offset.defined() && !is_finite(merged.offset))) {
        add(*site,
            "the merged weight has NaN or infinite values; an adapter seems "
            "to be broken");
      } else {
        use(*site, std::move(merged));
      }
    } catch (const Error& error) {
      add(*site, error.what());
    }
  }
  mistakes_.raise_if_any();
}

void Merging::add(const Site& site, const std::string& text) {
  const Target* target = target_of(state_, *site.weight);
  mistakes_.add(target ? concat("'", target->layer_path, "': ", text) : text);
}

const Target* target_of(const ModelState& state, const AdaptedWeight& weight) {
  for (const auto& adapter : state.adapters) {
    for (const Target& target : adapter->targets) {
      if (target.weight.get() == &weight || target.bias.get() == &weight) {
        return &target;
      }
    }
  }
  return nullptr;
}

void check_is_stored(
    Merging& merging,
    const ModelState& state,
    const Site& site) {
  const Target* target = target_of(state, *site.weight);
  const auto layer = target ? target->layer.lock() : nullptr;
  if (layer && is_computed(*layer, site.weight->base())) {
    merging.add(
        site,
        "the program computes its weight from others in each run (a weight "
        "norm, a standardised convolution), and none of them could hold the "
        "merged one; merge_adapter can merge it");
  }
}

void check_has_bias(
    Merging& merging,
    const Site& site,
    const MergedWeight& merged) {
  if (merged.offset.defined()) {
    merging.add(
        site,
        "its lora_bias has no bias of the layer to go into; merge_adapter can "
        "merge it");
  }
}

std::vector<std::string> active_or(
    const ModelState& state,
    const std::vector<std::string>& names,
    const char* asking) {
  if (!names.empty()) {
    return names;
  }
  auto active = state.names(state.activation->load()->adapters);
  if (active.empty()) {
    throw Error(
        ErrorKind::state,
        concat(
            "[",
            asking,
            "] no adapter is active; name those to merge, of ",
            list_names(state.names())));
  }
  return active;
}

}  // namespace peft::detail
