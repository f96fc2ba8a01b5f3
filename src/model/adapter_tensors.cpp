// SPDX-License-Identifier: Apache-2.0
#include "model/adapter_tensors.h"

#include <torch/nn/module.h>

#include "base/text.h"
#include "hosting/module_host.h"
#include "model/about_adapter.h"
#include "model/expert_order.h"
#include "model/file_keys.h"
#include "model/load_with_bases.h"
#include "model/residence.h"
#include "model/wrapper_names.h"

namespace peft {
namespace detail {
namespace {

// What Python PEFT's saved files put in front of every key.
constexpr std::string_view file_prefix = "base_model.model.";

// What files hold a second time for a weight that is tied to another's.
NamedTensors written_for_tied(
    const AdapterRecord& record,
    const Target& target) {
  const Target& owner = record.targets[*target.tied_to];
  const Tensors& tensors = target.attachment->parameters;
  if (owner.role == Role::adapter && target.attachment->layout &&
      target.attachment->layout->form != target.layout.form) {
    return method_entry(*record.config).as_head(tensors);
  }
  NamedTensors written;
  for (std::size_t i = 0; i < owner.specs.size(); ++i) {
    written.emplace_back(owner.specs[i].file_name, tensors[i]);
  }
  return written;
}

// What `tensors_of` gives for each target, by file keys.
template <class TensorsOf>
StateDict collect(const AdapterRecord& record, const TensorsOf& tensors_of) {
  StateDict found;
  for (const Target& target : record.targets) {
    if (target.tied_to) {
      continue;
    }
    const Tensors tensors = tensors_of(target);
    for (std::size_t i = 0; i < target.specs.size(); ++i) {
      if (!target.specs[i].file_name.empty()) {
        found.insert(
            join_path(target.file_prefix, target.specs[i].file_name),
            tensors[i]);
      }
    }
  }
  return found;
}

// "fc.lora_A.default.weight", as in a whole model's state dict, is
// "lora_A.weight" in files: `rest` is what follows the layer.
std::string file_name_of(const std::string& rest) {
  std::vector<std::string> parts;
  std::size_t from = 0;
  for (auto dot = rest.find('.'); dot != std::string::npos;
       from = dot + 1, dot = rest.find('.', from)) {
    parts.push_back(rest.substr(from, dot - from));
  }
  const std::string last = rest.substr(from);
  if (parts.empty()) {
    return last;
  }
  const bool is_leaf = last == "weight" || last == "bias";
  return is_leaf ? concat(parts.front(), ".", last) : parts.front();
}

}  // namespace

StateDict second_tensors(const AdapterRecord& record) {
  StateDict found;
  for (const Target& target : record.targets) {
    if (target.tied_to && target.is_written) {
      for (auto& [name, tensor] : written_for_tied(record, target)) {
        if (!name.empty()) {
          found.insert(join_path(target.file_prefix, name), tensor);
        }
      }
    }
  }
  return found;
}

std::string without_adapter_name(
    const std::string& key,
    const std::string& key_prefix) {
  const auto at = tensor_name_at(key, key_prefix);
  return at == std::string::npos
      ? key
      : key.substr(0, at) + file_name_of(key.substr(at));
}

void check_filled(const AdapterRecord& record, const char* asking) {
  for (const Target& target : record.targets) {
    for (const at::Tensor& tensor : target.attachment->parameters) {
      if (tensor.is_meta()) {
        throw Error(
            ErrorKind::state,
            concat(
                about_adapter(asking, record.name),
                " was injected empty (low_cpu_mem_usage) and has no weights "
                "yet; load them with set_peft_model_state_dict first"));
      }
    }
  }
}

std::string without_prefix(const std::string& key) {
  return key.starts_with(file_prefix) ? key.substr(file_prefix.size()) : key;
}

StateDict adapter_tensors(const AdapterRecord& record) {
  return collect(record, [](const Target& target) {
    return target.attachment->parameters;
  });
}

StateDict written_tensors(const AdapterRecord& record, bool as_plain_lora) {
  const MethodEntry& entry = method_entry(*record.config);
  const auto written = as_plain_lora ? entry.plain : entry.written;
  StateDict tensors = collect(record, [&](const Target& target) {
    const Tensors& live = target.attachment->parameters;
    return written && target.of_method()
        ? written(*record.config, target.name(), live)
        : live;
  });
  for (const auto& item : second_tensors(record)) {
    tensors.insert(item.key(), item.value());
  }
  return tensors;
}

StoredShapes stored_shapes(
    const StateDict& weights,
    const std::string& prefix) {
  StoredShapes shapes;
  for (const auto& item : weights) {
    const std::string key = without_prefix(item.key());
    if (key.starts_with(prefix + ".")) {
      shapes.emplace_back(
          key.substr(prefix.size() + 1), item.value().sizes().vec());
    }
  }
  return shapes;
}

}  // namespace detail

StateDict get_peft_model_state_dict(
    torch::nn::Module& model,
    const std::string& adapter_name) {
  const auto state = detail::get_state(detail::ModuleHost(model));
  const auto turn = state->lock();
  auto& record = state->get(adapter_name, "get_peft_model_state_dict");
  detail::make_resident(*state, {&record});
  return detail::written_tensors(record);
}

LoadReport set_peft_model_state_dict(
    torch::nn::Module& model,
    const StateDict& state_dict,
    const std::string& adapter_name,
    bool ignore_mismatched_sizes) {
  const detail::ModuleHost host(model);
  const auto state = detail::get_state(host);
  const auto turn = state->lock();
  auto& record = state->get(adapter_name, "set_peft_model_state_dict");
  detail::check_not_attached(record, "set_peft_model_state_dict");
  if (state->is_merged(record)) {
    throw Error(
        ErrorKind::state,
        detail::concat(
            detail::about_adapter("set_peft_model_state_dict", adapter_name),
            " is merged, and the merged weights would stay as they are; call "
            "unmerge_adapter first"));
  }
  const StateDict weights = detail::in_todays_order(
      record.targets,
      *record.config,
      detail::without_wrapper_names(
          state_dict, [&] { return detail::module_paths(host.layers()); }));
  return detail::load_with_bases(
      state, record, host, weights, ignore_mismatched_sizes);
}

}  // namespace peft
