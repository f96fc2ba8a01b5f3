// SPDX-License-Identifier: Apache-2.0
// The base's own tensors become the merged ones, which is for good: what cannot
// be is found before anything changes.
#include <map>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>

#include "base/text.h"
#include "base/warning.h"
#include "hosting/layer_kinds.h"
#include "model/injection.h"
#include "model/merging.h"

namespace peft {

using namespace detail;

namespace {

// Layers that read the same tensor and would be changed with this one.
void check_shared(Merging& merging) {
  for (const Site* site : merging.sites()) {
    for (const std::string& path : site->shared_with) {
      const bool is_merged_too = std::any_of(
          merging.sites().begin(), merging.sites().end(), [&](const Site* s) {
            return s != site && s->path == path &&
                s->weight->base().is_same(site->weight->base());
          });
      if (!is_merged_too) {
        merging.add(
            *site,
            concat(
                "'",
                path,
                "' reads the same tensor and has no adapter of these; "
                "merge_adapter keeps the two apart, and ensure_weight_tying "
                "in the config adapts both"));
      }
    }
  }
}

// One tensor cannot hold what two layers' own adapters make of it.
void check_same_value(
    Merging& merging,
    const Site& site,
    const at::Tensor& merged,
    std::map<const void*, at::Tensor>& shared) {
  if (site.shared_with.empty()) {
    return;
  }
  const auto [place, is_first] =
      shared.try_emplace(site.weight->base().unsafeGetTensorImpl(), merged);
  const double tolerance = merged.itemsize() < 4 ? 2e-2 : 1e-4;
  if (!is_first &&
      !at::allclose(place->second, merged, tolerance, tolerance * 1e-2)) {
    merging.add(
        site,
        concat(
            "it shares its tensor with ",
            list_names(site.shared_with),
            ", and the adapter does not do the same to both; merge_adapter "
            "keeps them apart, and ensure_weight_tying makes one adapter of "
            "the two"));
  }
}

// Another parameter in the same memory would change with it.
void check_memory(Merging& merging, const ModelState& state, const Site& site) {
  const at::Tensor& base = site.weight->base();
  for (const auto& [parameter, before] : state.own_parameters) {
    if (!parameter.is_same(base) && parameter.numel() > 0 &&
        parameter.is_alias_of(base) &&
        parameter.const_data_ptr() == base.const_data_ptr()) {
      merging.add(
          site,
          "another parameter is in the same memory and would change with it; "
          "merge with in_place = false");
      return;
    }
  }
}

// Else another size is that of an adapter's own vocabulary.
bool is_of_groups(const Site& site) {
  return site.weight->layout().form == WeightLayout::Form::kernel;
}

void check_groups(
    Merging& merging,
    const ModelState& state,
    const Site& site,
    const at::Tensor& merged) {
  if (merged.sizes() == site.weight->base().sizes() || !is_of_groups(site)) {
    return;
  }
  const Target* target = target_of(state, *site.weight);
  const auto layer = target ? target->layer.lock() : nullptr;
  if (!layer || !has_groups_of_its_own(*layer)) {
    merging.add(
        site,
        "its LoRA reads all input channels, and the groups of this "
        "convolution cannot be changed; merge_adapter can merge it");
  }
}

void put_merged(
    const ModelState& state,
    const Site& site,
    const at::Tensor& merged,
    bool in_place) {
  const at::NoGradGuard no_grad;
  at::Tensor base = site.weight->base();
  if (merged.sizes() != base.sizes()) {
    const auto layer = target_of(state, *site.weight)->layer.lock();
    if (layer && !is_of_groups(site)) {
      set_rows(*layer, merged.size(0));
    } else if (layer) {
      join_groups(*layer);
      warn(concat(
          "[merge_and_unload] '",
          target_of(state, *site.weight)->layer_path,
          "' becomes a convolution in one group: its LoRA reads all input "
          "channels"));
    }
    in_place = false;  // it has another shape
  }
  if (in_place) {
    base.copy_(merged);
  } else {
    base.set_data(merged);
  }
}

}  // namespace

void Adapters::merge_and_unload(
    const std::vector<std::string>& given,
    bool in_place) {
  constexpr const char* asking = "merge_and_unload";
  const auto turn = state_->lock();
  auto names = given.empty() ? merged_adapters() : given;
  names = active_or(*state_, names, asking);
  const Chosen chosen = find_adapters(*state_, names, asking);
  Merging merging(*state_, chosen, asking);
  check_shared(merging);
  // In place, a second copy of one weight at a time is all there is: what was
  // checked is made again.
  std::vector<std::pair<const Site*, at::Tensor>> made;
  std::map<const void*, at::Tensor> shared;
  merging.run([&](const Site& site, MergedWeight merged) {
    check_groups(merging, *state_, site, merged.weight);
    check_is_stored(merging, *state_, site);
    check_has_bias(merging, site, merged);
    check_same_value(merging, site, merged.weight, shared);
    if (in_place) {
      check_memory(merging, *state_, site);
    }
    made.emplace_back(
        &site, in_place ? at::Tensor() : std::move(merged.weight));
  });
  merging.raise_if_any();
  const auto adapters = merging.adapters();
  for (const auto& [site, tensor] : made) {
    put_merged(
        *state_,
        *site,
        tensor.defined() ? tensor : site->weight->merged_with(adapters).weight,
        in_place);
  }
  unload();
}

void merge_and_unload(
    torch::nn::Module& model,
    const std::vector<std::string>& adapter_names,
    bool in_place) {
  adapters_of(model).merge_and_unload(adapter_names, in_place);
}

}  // namespace peft
