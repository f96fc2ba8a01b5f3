// SPDX-License-Identifier: Apache-2.0
#include "peft/clone.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include "base/text.h"
#include "hosting/module_host.h"
#include "hosting/own_tensors.h"
#include "hosting/replace_data.h"
#include "model/adapter_tensors.h"
#include "model/injection.h"
#include "model/merge.h"
#include "model/residence.h"

namespace peft {
namespace detail {
namespace {

// Sequential::clone() numbers the children of its copy: they get the names
// back by which configs and files know them.
void restore_names(
    const torch::nn::Module& from,
    torch::nn::Module& to,
    std::unordered_set<const torch::nn::Module*>& seen) {
  const auto source = from.named_children();
  const auto target = to.named_children();
  if (!seen.insert(&from).second || source.size() != target.size()) {
    return;
  }
  const bool renamed =
      std::any_of(source.begin(), source.end(), [&](const auto& child) {
        return !target.contains(child.key());
      });
  for (std::size_t i = 0; i < target.size() && renamed; ++i) {
    to.unregister_module(target[i].key());
  }
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (renamed) {
      to.register_module(source[i].key(), target[i].value());
    }
    restore_names(*source[i].value(), *target[i].value(), seen);
  }
}

// One tensor of a layer that forward reads, in a walk over all layers.
struct ReadTensor {
  HostedTensor hosted;
  bool is_registered;  // as the layer's own, under its name
};

std::vector<ReadTensor> read_tensors(const Host& host) {
  std::vector<ReadTensor> found;
  for (const HostedLayer& layer : host.layers()) {
    const auto own =
        layer.seat ? own_tensors_of(*layer.seat) : std::vector<OwnTensor>();
    for (const HostedTensor& tensor : layer.tensors) {
      const bool is_registered =
          std::any_of(own.begin(), own.end(), [&](const OwnTensor& o) {
            return o.name == tensor.name && o.registered.is_same(tensor.base);
          });
      found.push_back({tensor, is_registered});
    }
  }
  return found;
}

// clone() gives each layer tensors of its own, by what is registered: layers
// that read one tensor, a head and its table, do so in the copy as well.
void restore_ties(const Host& from, const Host& to) {
  const auto source = read_tensors(from);
  const auto target = read_tensors(to);
  if (source.size() != target.size()) {
    return;
  }
  std::unordered_map<const void*, std::size_t> owners;
  for (std::size_t i = 0; i < source.size(); ++i) {
    const void* tensor = source[i].hosted.base.unsafeGetTensorImpl();
    const auto [place, is_first] = owners.try_emplace(tensor, i);
    if (!is_first && source[i].is_registered &&
        !source[place->second].is_registered) {
      place->second = i;
    }
  }
  for (std::size_t i = 0; i < source.size(); ++i) {
    const at::Tensor& tensor = source[i].hosted.base;
    const std::size_t owner = owners.at(tensor.unsafeGetTensorImpl());
    if (owner != i) {
      target[i].hosted.place->put(target[owner].hosted.base);
    } else if (!source[i].is_registered) {  // its values were not copied
      at::Tensor copy = tensor.detach().clone();
      copy.set_requires_grad(tensor.requires_grad());
      target[i].hosted.place->put(copy);
    }
  }
}

// libtorch's own clone(), which only classes derived from Cloneable have.
std::shared_ptr<torch::nn::Module> plain_clone(
    const torch::nn::Module& model,
    const Host& host) {
  try {
    const std::shared_ptr<torch::nn::Module> copy = model.clone();
    std::unordered_set<const torch::nn::Module*> seen;
    restore_names(model, *copy, seen);
    restore_ties(host, ModuleHost(*copy));
    return copy;
  } catch (const c10::Error& error) {
    throw Error(
        ErrorKind::unsupported,
        concat(
            "[clone] libtorch cannot clone this ",
            host.type(),
            " (",
            error.what_without_backtrace(),
            "); make a second model yourself and copy this one into it with "
            "peft::copy_into"));
  }
}

// Takes every adapter's modules and tensors out of a model, and puts the very
// same ones back when it goes out of scope.
class Lifted {
 public:
  explicit Lifted(ModelState& state) {
    for (const Site& site : state.sites) {
      tensors_.emplace_back(site.place, site.place->get());
      site.place->put(site.weight->base());
    }
    for (const auto& adapter : state.adapters) {
      for (const Target& target : adapter->targets) {
        lift_modules(target.layer.lock());
      }
    }
  }

  ~Lifted() {
    for (const auto& [layer, name, module] : modules_) {
      layer->register_module(name, module);
    }
    for (const auto& [place, tensor] : tensors_) {
      place->put(tensor);
    }
  }

  Lifted(const Lifted&) = delete;
  Lifted& operator=(const Lifted&) = delete;

 private:
  using Module = std::shared_ptr<torch::nn::Module>;

  void lift_modules(const Module& layer) {
    if (!layer) {
      return;
    }
    for (const auto& [name, module] : layer->named_children().pairs()) {
      if (is_adapter_module(*module)) {
        modules_.emplace_back(layer, name, module);
        layer->unregister_module(name);
      }
    }
  }

  std::vector<std::pair<std::shared_ptr<TensorPlace>, at::Tensor>> tensors_;
  std::vector<std::tuple<Module, std::string, Module>> modules_;
};

// The tensors of a model's layers in the order of a walk. Two models of one
// structure agree in it even where clone() loses the names of children.
std::vector<HostedTensor> tensors_in_order(
    const Host& host,
    std::vector<std::shared_ptr<torch::nn::Module>>& seats) {
  std::vector<HostedTensor> tensors;
  for (const HostedLayer& layer : host.layers()) {
    for (const HostedTensor& tensor : layer.tensors) {
      tensors.push_back(tensor);
      seats.push_back(layer.seat);
    }
  }
  return tensors;
}

// Plans the same adapters on another model of the same structure.
class Replanner {
 public:
  Replanner(const Host& from, const Host& to)
      : from_(tensors_in_order(from, from_seats_)),
        to_(tensors_in_order(to, to_seats_)) {}

  InjectionPlan plan(const AdapterRecord& adapter) const {
    InjectionPlan plan{
        .name = adapter.name,
        .config = adapter.config->clone(),
        .report = adapter.report};
    for (const Target& target : adapter.targets) {
      const std::size_t i = index_of(target);
      PlannedTarget planned{to_[i], target, target.attachment->method};
      const WeightLayout& layout = target.weight->layout();
      if (to_[i].layout || layout.form != WeightLayout::Form::whole ||
          layout.positions_first) {
        planned.hosted.layout = layout;
      }
      if (target.bias) {
        const std::size_t bias = index_of(target.bias->base());
        planned.bias = {to_[bias], *target.bias_attachment->bias_rows};
      }
      planned.target.layer = to_seats_[i];
      planned.target.base = to_[i].base;
      if (!target.tied_to) {
        planned.own_layout = target.attachment->layout;
      }
      plan.targets.push_back(std::move(planned));
    }
    for (const auto& item : adapter.base_keys) {
      const std::size_t i = find([&](std::size_t place) {
        return from_[place].base.is_same(item.value());
      });
      plan.base_keys.insert(item.key(), to_[i].base);
    }
    return plan;
  }

 private:
  std::size_t index_of(const Target& target) const {
    const auto layer = target.layer.lock();
    return find([&](std::size_t i) {
      return from_seats_[i] == layer && from_[i].name == target.tensor_name;
    });
  }

  std::size_t index_of(const at::Tensor& base) const {
    return find([&](std::size_t i) { return from_[i].base.is_same(base); });
  }

  template <class IsIt>
  std::size_t find(const IsIt& is_it) const {
    for (std::size_t i = 0; i < std::min(from_.size(), to_.size()); ++i) {
      if (is_it(i)) {
        return i;
      }
    }
    throw Error(
        ErrorKind::state,
        "[clone] a layer with adapters is no longer part of the model");
  }

  std::vector<std::shared_ptr<torch::nn::Module>> from_seats_, to_seats_;
  std::vector<HostedTensor> from_, to_;
};

// In the same dtype, which may not be what an injection makes: the model or the
// adapter may have been cast since.
void copy_exactly(const at::Tensor& from, const at::Tensor& to) {
  const c10::InferenceMode trainable_later(false);
  const at::NoGradGuard no_grad;
  replace_data(
      to,
      from.to(
          to.device(),
          from.scalar_type(),
          /*non_blocking=*/false,
          /*copy=*/true));
}

void copy_mask(
    const std::shared_ptr<AdaptedWeight>& from,
    const std::shared_ptr<AdaptedWeight>& to) {
  const at::Tensor zeroed = from ? from->mask().zeroed() : at::Tensor();
  if (zeroed.defined()) {
    to->mask().set_zeroed(zeroed);
  }
}

void copy_contents(const AdapterRecord& from, const AdapterRecord& to) {
  if (from.schedule) {
    to.schedule->load(from.schedule->state());
  }
  for (std::size_t i = 0; i < from.targets.size(); ++i) {
    const Attachment& source = *from.targets[i].attachment;
    Attachment& target = *to.targets[i].attachment;
    target.scale = source.scale;
    copy_mask(from.targets[i].weight, to.targets[i].weight);
    copy_mask(from.targets[i].bias, to.targets[i].bias);
    if (to.targets[i].bias_attachment) {
      to.targets[i].bias_attachment->scale = source.scale;
    }
    if (from.targets[i].tied_to) {
      continue;  // its tensors are those of another
    }
    for (std::size_t p = 0; p < source.parameters.size(); ++p) {
      const at::Tensor& copy = target.parameters[p];
      copy_exactly(source.parameters[p].detach(), copy);
      copy.set_requires_grad(source.parameters[p].requires_grad());
    }
  }
}

void copy_adapters(
    ModelState& from,
    const Host& from_host,
    const Host& to_host) {
  const Replanner replanner(from_host, to_host);
  std::shared_ptr<ModelState> state;
  for (const auto& adapter : from.adapters) {
    if (!adapter->source) {
      check_filled(*adapter, "clone");
    }
  }
  for (const auto& adapter : from.adapters) {
    make_resident(from, {adapter.get()});
    const StateDict weights = adapter_tensors(*adapter);
    state = carry_out(
                replanner.plan(*adapter),
                to_host,
                state,
                {.weights = &weights,
                 .own_base_weights = adapter->own_base_weights,
                 .autocast_adapter_dtype = adapter->autocast_dtype})
                .state();
    AdapterRecord& copy = state->get(adapter->name, "clone");
    copy_contents(*adapter, copy);
    copy.trains = adapter->trains;
  }
  const auto active = from.activation->load();
  Choice next{.enabled = active->enabled};
  for (const auto& name : from.names(active->adapters)) {
    next.adapters.push_back(state->get(name, "clone").attached);
  }
  state->activation->store(std::move(next));
  if (active->merged) {
    merge(*state, from.names(active->merged->adapters()), "clone");
  }
}

// The original's present requires_grad for the copy's own parameters.
void copy_requires_grad(const Host& from, const Host& to) {
  std::unordered_map<std::string, bool> required;
  for (const auto& [name, parameter] : from.parameters()) {
    required.emplace(name, parameter.requires_grad());
  }
  for (const auto& [name, parameter] : to.parameters()) {
    const auto found = required.find(name);
    parameter.set_requires_grad(found != required.end() && found->second);
  }
}

void copy_training_flags(const torch::nn::Module& from, torch::nn::Module& to) {
  to.train(from.is_training());
  const auto source = from.children();
  const auto target = to.children();
  for (std::size_t i = 0; i < std::min(source.size(), target.size()); ++i) {
    copy_training_flags(*source[i], *target[i]);
  }
}

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

void check_same_structure(
    const Host& host,
    const NamedTensors& source,
    const NamedTensors& target) {
  Mistakes mistakes(
      ErrorKind::shape,
      concat("[copy_into] the two models differ (a ", host.type(), ")"));
  for (std::size_t i = 0; i < std::max(source.size(), target.size()); ++i) {
    if (i >= source.size() || i >= target.size()) {
      mistakes.add(concat(
          source.size(), " tensors in one, ", target.size(), " in the other"));
      break;
    }
    if (source[i].first != target[i].first ||
        source[i].second.sizes() != target[i].second.sizes()) {
      mistakes.add(concat(
          "'",
          source[i].first,
          "' ",
          source[i].second.sizes(),
          " against '",
          target[i].first,
          "' ",
          target[i].second.sizes()));
    }
  }
  mistakes.raise_if_any();
}

}  // namespace
}  // namespace detail

std::shared_ptr<torch::nn::Module> clone_module(torch::nn::Module& model) {
  const detail::ModuleHost host(model);
  const auto state = detail::find_state(host);
  if (!state) {
    return detail::plain_clone(model, host);
  }
  const auto turn = state->lock();
  std::shared_ptr<torch::nn::Module> copy;
  {
    const detail::Lifted lifted(*state);
    copy = detail::plain_clone(model, host);
  }
  const detail::ModuleHost copy_host(*copy);
  detail::copy_adapters(*state, host, copy_host);
  detail::copy_requires_grad(host, copy_host);
  detail::copy_training_flags(model, *copy);
  return copy;
}

void copy_into(torch::nn::Module& model, torch::nn::Module& fresh) {
  const detail::ModuleHost host(model);
  const auto source = detail::own_tensors(model);
  const auto target = detail::own_tensors(fresh);
  detail::check_same_structure(host, source, target);
  {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < source.size(); ++i) {
      at::Tensor to = target[i].second;
      to.set_data(source[i].second.detach().clone());
    }
  }
  if (const auto state = detail::find_state(host)) {
    const auto turn = state->lock();
    detail::copy_adapters(*state, host, detail::ModuleHost(fresh));
  }
  detail::copy_requires_grad(host, detail::ModuleHost(fresh));
  detail::copy_training_flags(model, fresh);
}

}  // namespace peft
