// SPDX-License-Identifier: Apache-2.0
// Merged weights stand beside the untouched bases until the adapters go.
#include "model/merge.h"

#include <map>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/isfinite.h>

#include "base/text.h"
#include "base/warning.h"
#include "hosting/layer_kinds.h"
#include "model/adapter_tensors.h"
#include "model/choose.h"
#include "model/injection.h"

namespace peft {
namespace detail {
namespace {

// Where a weight stands, for messages and for what its layer must change.
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

bool is_all_finite(const at::Tensor& tensor) {
  return !tensor.is_floating_point() || tensor.isfinite().all().item<bool>();
}

// Values that are no numbers where the base had some.
bool is_broken(const at::Tensor& merged, const at::Tensor& base) {
  if (is_all_finite(merged)) {
    return false;
  }
  return merged.sizes() != base.sizes() ||
      (base.isfinite() & ~merged.isfinite()).any().item<bool>();
}

class Merging {
 public:
  Merging(const ModelState& state, const Chosen& chosen, const char* asking)
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

  const AttachedAdapters& adapters() const { return adapters_; }
  const std::vector<const Site*>& sites() const { return sites_; }

  /// Calls `use` with every merged weight. Throws Error naming all that cannot
  /// be merged.
  template <class Use>
  void run(const Use& use) {
    for (const Site* site : sites_) {
      try {
        MergedWeight merged = site->weight->merged_with(adapters_);
        if (is_broken(merged.weight, site->weight->base()) ||
            (merged.offset.defined() && !is_all_finite(merged.offset))) {
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

  void add(const Site& site, const std::string& text) {
    const Target* target = target_of(state_, *site.weight);
    mistakes_.add(target ? concat("'", target->layer_path, "': ", text) : text);
  }

  void raise_if_any() const { mistakes_.raise_if_any(); }

 private:
  const ModelState& state_;
  const AttachedAdapters adapters_;
  std::vector<const Site*> sites_;
  Mistakes mistakes_;
};

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

void check_groups(
    Merging& merging,
    const ModelState& state,
    const Site& site,
    const at::Tensor& merged) {
  if (merged.sizes() == site.weight->base().sizes()) {
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

void put_merged(
    const ModelState& state,
    const Site& site,
    const at::Tensor& merged,
    bool in_place) {
  const at::NoGradGuard no_grad;
  at::Tensor base = site.weight->base();
  if (merged.sizes() != base.sizes()) {
    if (const auto layer = target_of(state, *site.weight)->layer.lock()) {
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

void merge(
    ModelState& state,
    const std::vector<std::string>& given,
    const char* asking) {
  const auto turn = state.lock();
  const auto names = active_or(state, given, asking);
  Choice next = *state.activation->load();
  std::vector<std::string> all;
  if (next.merged) {
    all = state.names(next.merged->adapters());
  }
  const std::size_t before = all.size();
  for (const auto& name : names) {
    if (std::find(all.begin(), all.end(), name) == all.end()) {
      all.push_back(name);
    }
  }
  const Chosen chosen = find_adapters(state, all, asking);
  if (before == all.size()) {
    warn(concat(
        "[",
        asking,
        "] ",
        list_names(all),
        " are merged already, no more to do"));
    return;
  }
  if (before > 0) {
    warn(concat(
        "[",
        asking,
        "] ",
        list_names(state.names(next.merged->adapters())),
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
  for (const AdapterRecord* record : chosen) {
    state_->find(record->name)->biases.clear();  // they stay as they are
  }
  unload();
}

void merge_adapter(
    torch::nn::Module& model,
    const std::vector<std::string>& adapter_names) {
  adapters_of(model).merge_adapter(adapter_names);
}

void unmerge_adapter(torch::nn::Module& model) {
  adapters_of(model).unmerge_adapter();
}

void merge_and_unload(
    torch::nn::Module& model,
    const std::vector<std::string>& adapter_names,
    bool in_place) {
  adapters_of(model).merge_and_unload(adapter_names, in_place);
}

}  // namespace peft
