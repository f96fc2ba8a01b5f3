// SPDX-License-Identifier: Apache-2.0
// The handle's operations, and the same by model.
#include "peft/adapters.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <torch/nn/modules/dropout.h>

#include "base/text.h"
#include "base/warning.h"
#include "hosting/module_host.h"
#include "model/adapter_tensors.h"
#include "model/injection.h"
#include "model/model_state.h"
#include "model/status.h"

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
      if (!target.is_saved_copy) {
        continue;
      }
      const auto [place, is_new] =
          owner.try_emplace(target.weight.get(), adapter->name);
      if (!is_new) {
        throw Error(
            ErrorKind::state,
            concat(
                "[set_adapter] '", place->second, "' and '", adapter->name,
                "' both have their own copy of '", target.layer_path,
                "' (modules_to_save); only one of them can be active"));
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
            detail::list_names(state.names()), ")"));
  }
  detail::Mistakes mistakes(ErrorKind::state, "[set_adapter]");
  std::vector<const AdapterRecord*> chosen;
  for (const auto& name : names) {
    const AdapterRecord* found = state.find(name);
    if (!found) {
      mistakes.add(concat(
          "the model has no adapter '", name, "'",
          detail::did_you_mean(name, state.names()), "; it has ",
          detail::list_names(state.names())));
    } else if (std::find(chosen.begin(), chosen.end(), found) == chosen.end()) {
      chosen.push_back(found);
    }
  }
  mistakes.raise_if_any();
  check_saved_once(chosen);
  detail::ActiveSet next{state.activation->load()->enabled, {}};
  for (const AdapterRecord* adapter : chosen) {
    next.ids.push_back(adapter->id);
  }
  state.activation->store(std::move(next));
}

// Active adapters after `removed` has gone.
void activate_without(ModelState& state, const AdapterRecord& removed) {
  auto next = *state.activation->load();
  const auto was_active = std::erase(next.ids, removed.id) > 0;
  if (was_active && next.ids.empty()) {
    const AdapterRecord* first = nullptr;
    for (const auto& adapter : state.adapters) {
      if (adapter.get() != &removed && (!first || adapter->name < first->name)) {
        first = adapter.get();
      }
    }
    if (first) {
      next.ids.push_back(first->id);
      detail::warn(concat(
          "adapter '", removed.name, "' was active and is deleted; '",
          first->name, "' is active now"));
    }
  }
  state.activation->store(std::move(next));
}

template <class Visit>
void for_each_active(ModelState& state, const Visit& visit) {
  const auto active = state.activation->load();
  for (const auto& adapter : state.adapters) {
    if (std::find(active->ids.begin(), active->ids.end(), adapter->id) !=
        active->ids.end()) {
      for (const Target& target : adapter->targets) {
        visit(*target.attachment);
      }
    }
  }
}

void check_scale(const char* asking, double scale) {
  if (!std::isfinite(scale)) {
    throw Error(
        ErrorKind::config,
        concat("[", asking, "] scale = ", scale, "; give a finite number"));
  }
}

}  // namespace

Adapters::Adapters(std::shared_ptr<ModelState> state)
    : state_(std::move(state)) {}

std::vector<at::Tensor> Adapters::trainable_parameters() const {
  std::vector<at::Tensor> found;
  std::set<const void*> seen;
  for (const auto& adapter : state_->adapters) {
    for (const auto& item : detail::adapter_tensors(*adapter)) {
      if (item.value().requires_grad() &&
          seen.insert(item.value().unsafeGetTensorImpl()).second) {
        found.push_back(item.value());
      }
    }
  }
  return found;
}

std::vector<at::Tensor> Adapters::parameters(const std::string& name) const {
  return detail::adapter_tensors(state_->get(name, "parameters")).values();
}

std::vector<std::string> Adapters::names() const { return state_->names(); }

std::vector<std::string> Adapters::active_adapters() const {
  return detail::active_names(*state_);
}

bool Adapters::enabled() const { return state_->activation->load()->enabled; }

const AdapterConfig& Adapters::config(const std::string& name) const {
  return *state_->get(name, "config").config;
}

const MatchReport& Adapters::report(const std::string& name) const {
  return state_->get(name, "report").report;
}

void Adapters::set_adapter(const std::string& name) {
  activate(*state_, {name});
}

void Adapters::set_adapter(const std::vector<std::string>& names) {
  activate(*state_, names);
}

void Adapters::enable_adapters(bool enabled) {
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

void Adapters::set_requires_grad(const std::string& name, bool requires_grad) {
  const AdapterRecord& record = state_->get(name, "set_requires_grad");
  for (const Target& target : record.targets) {
    for (std::size_t i = 0; i < target.specs.size(); ++i) {
      const at::Tensor& tensor = target.attachment->parameters[i];
      if (!target.specs[i].is_buffer && tensor.is_floating_point()) {
        tensor.set_requires_grad(requires_grad);
      }
    }
  }
  for (const auto& trained : record.biases) {
    trained.bias.set_requires_grad(requires_grad);
  }
}

void Adapters::set_scale(const std::string& name, double scale) {
  check_scale("set_scale", scale);
  for (const Target& target : state_->get(name, "set_scale").targets) {
    target.attachment->scale.store(scale);
  }
}

void Adapters::scale_layer(double scale) {
  check_scale("scale_layer", scale);
  for_each_active(*state_, [&](detail::Attachment& attachment) {
    attachment.scale.store(attachment.scale.load() * scale);
  });
}

void Adapters::unscale_layer(std::optional<double> scale) {
  if (scale && (*scale == 0 || !std::isfinite(*scale))) {
    throw Error(
        ErrorKind::config,
        concat(
            "[unscale_layer] scale = ", *scale, "; give a finite number that "
            "is not zero, or none to go back to lora_alpha / r"));
  }
  for_each_active(*state_, [&](detail::Attachment& attachment) {
    attachment.scale.store(scale ? attachment.scale.load() / *scale : 1.0);
  });
}

std::map<std::string, double> Adapters::scaling(const std::string& name) const {
  std::map<std::string, double> found;
  for (const Target& target : state_->get(name, "scaling").targets) {
    if (!target.is_saved_copy) {
      found[target.file_prefix] = target.attachment->scale.load() *
          target.attachment->method->strength();
    }
  }
  return found;
}

Adapters adapters_of(const torch::nn::Module& model) {
  return Adapters(detail::get_state(detail::ModuleHost(model)));
}

void set_adapter(torch::nn::Module& model, const std::string& name) {
  adapters_of(model).set_adapter(name);
}

void set_adapter(
    torch::nn::Module& model,
    const std::vector<std::string>& names) {
  adapters_of(model).set_adapter(names);
}

void enable_adapters(torch::nn::Module& model, bool enabled) {
  adapters_of(model).enable_adapters(enabled);
}

void delete_adapter(torch::nn::Module& model, const std::string& name) {
  adapters_of(model).delete_adapter(name);
}

void unload(torch::nn::Module& model) { adapters_of(model).unload(); }

void set_requires_grad(
    torch::nn::Module& model,
    const std::vector<std::string>& names,
    bool requires_grad) {
  Adapters adapters = adapters_of(model);
  for (const auto& name : names) {
    adapters.state()->get(name, "set_requires_grad");
  }
  for (const auto& name : names) {
    adapters.set_requires_grad(name, requires_grad);
  }
}

}  // namespace peft
