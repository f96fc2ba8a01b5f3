// SPDX-License-Identifier: Apache-2.0
#include "model/status.h"

#include <iomanip>
#include <set>

#include "base/text.h"
#include "hosting/module_host.h"
#include "model/adapter_tensors.h"

namespace peft {
namespace detail {
namespace {

// "true", "false" or "irregular", merging one more tensor into `seen`.
void merge_requires_grad(std::string& seen, const at::Tensor& tensor) {
  const std::string now = tensor.requires_grad() ? "true" : "false";
  if (seen.empty()) {
    seen = now;
  } else if (seen != now) {
    seen = "irregular";
  }
}

// 76038 -> "76,038"
std::string with_commas(std::int64_t number) {
  std::string text = std::to_string(number);
  for (auto i = static_cast<int>(text.size()) - 3; i > 0; i -= 3) {
    text.insert(static_cast<std::size_t>(i), ",");
  }
  return text;
}

}  // namespace

std::vector<std::string> active_names(const ModelState& state) {
  return state.names(state.activation->load()->adapters);
}

}  // namespace detail

std::vector<LayerStatus> Adapters::layer_status() const {
  const auto turn = state_->lock();
  std::vector<LayerStatus> layers;
  std::map<std::string, std::size_t> place;  // by layer path
  const auto active = detail::active_names(*state_);
  for (const auto& adapter : state_->adapters) {
    const bool is_merged = state_->is_merged(*adapter);
    for (const detail::Target& target : adapter->targets) {
      if (target.role == detail::Role::trained_bias ||
          target.role == detail::Role::own_base) {
        continue;  // no layer of an adapter in PEFT's eyes
      }
      const auto [found, is_new] =
          place.try_emplace(target.layer_path, layers.size());
      if (is_new) {
        layers.push_back(
            {.name = target.layer_path,
             .module_type = target.layer_type,
             .enabled = enabled(),
             .active_adapters = active});
      }
      LayerStatus& layer = layers[found->second];
      if (is_merged &&
          (layer.merged_adapters.empty() ||
           layer.merged_adapters.back() != adapter->name)) {
        layer.merged_adapters.push_back(adapter->name);
      }
      for (std::size_t i = 0; i < target.specs.size(); ++i) {
        const at::Tensor& tensor = target.attachment->parameters[i];
        if (!target.specs[i].is_buffer) {
          detail::merge_requires_grad(
              layer.requires_grad[adapter->name], tensor);
        }
        layer.devices[adapter->name] = tensor.device().str();
      }
      if (layer.available_adapters.empty() ||
          layer.available_adapters.back() != adapter->name) {
        layer.available_adapters.push_back(adapter->name);
      }
    }
  }
  return layers;
}

ModelStatus Adapters::status() const {
  const auto turn = state_->lock();
  ModelStatus status;
  status.base_model_type = state_->model_type;
  status.enabled = enabled();
  status.active_adapters = active_adapters();
  status.merged_adapters = merged_adapters();
  status.available_adapters = names();
  status.adapter_layers = static_cast<std::int64_t>(layer_status().size());
  std::set<const void*> seen;
  const auto count = [&](const at::Tensor& tensor) {
    if (seen.insert(tensor.unsafeGetTensorImpl()).second) {
      status.total_parameters += tensor.numel();
      status.trainable_parameters +=
          tensor.requires_grad() ? tensor.numel() : 0;
    }
  };
  for (const auto& [parameter, before] : state_->own_parameters) {
    count(parameter);
  }
  for (const auto& adapter : state_->adapters) {
    status.peft_types[adapter->name] = adapter->config->peft_type();
    auto& requires_grad = status.requires_grad[adapter->name];
    for (const detail::Target& target : adapter->targets) {
      for (std::size_t i = 0; i < target.specs.size(); ++i) {
        if (!target.specs[i].is_buffer) {
          const at::Tensor& tensor = target.attachment->parameters[i];
          detail::merge_requires_grad(requires_grad, tensor);
          count(tensor);
        }
      }
    }
  }
  return status;
}

std::string ModelStatus::to_string() const {
  const double share = total_parameters == 0
      ? 0.0
      : 100.0 * static_cast<double>(trainable_parameters) /
          static_cast<double>(total_parameters);
  std::ostringstream text;
  text << "trainable params: " << detail::with_commas(trainable_parameters)
       << " || all params: " << detail::with_commas(total_parameters)
       << " || trainable%: " << std::fixed << std::setprecision(4) << share;
  return text.str();
}

std::vector<LayerStatus> get_layer_status(const torch::nn::Module& model) {
  return adapters_of(model).layer_status();
}

ModelStatus get_model_status(const torch::nn::Module& model) {
  return adapters_of(model).status();
}

}  // namespace peft
