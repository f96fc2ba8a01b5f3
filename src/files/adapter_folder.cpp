// SPDX-License-Identifier: Apache-2.0
#include "peft/adapter_folder.h"

#include <algorithm>
#include <set>
#include <system_error>

#include "base/atomic_file.h"
#include "base/text.h"
#include "base/warning.h"
#include "config/peft_version.h"
#include "files/saved_modules.h"
#include "hosting/module_host.h"
#include "model/adapter_tensors.h"
#include "model/expert_order.h"
#include "model/hotswap.h"
#include "model/injection.h"
#include "model/residence.h"
#include "model/wrapper_names.h"
#include "peft/attach.h"
#include "peft/combine.h"
#include "peft/error.h"
#include "peft/hotswap.h"
#include "peft/safetensors.h"

namespace peft {
namespace {

namespace fs = std::filesystem;

constexpr const char* config_name = "adapter_config.json";
constexpr const char* weights_name = "adapter_model.safetensors";

void make_directory(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error || !fs::is_directory(directory)) {
    throw Error(
        ErrorKind::file,
        detail::concat(
            "cannot save into '",
            directory.string(),
            "': ",
            error ? error.message() : "it is not a folder",
            "; give a folder that can be made or written to"));
  }
}

// Says what only this library can load again.
void warn_of_what_peft_lacks(const detail::AdapterRecord& adapter) {
  const auto loads = detail::method_entry(*adapter.config).loads_in_peft;
  std::vector<std::string> layers;
  for (const detail::Target& target : adapter.targets) {
    const bool is_separate_projection =
        target.layer_type == "MultiheadAttention" && !target.holders.empty();
    if (target.of_method() &&
        (is_separate_projection ||
         !loads(*adapter.config, target.layer_type))) {
      layers.push_back(
          detail::concat(target.layer_path, " (", target.layer_type, ")"));
    }
  }
  if (!layers.empty()) {
    layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
    detail::warn(detail::concat(
        "adapter '",
        adapter.name,
        "': Python PEFT ",
        detail::known_peft_version(),
        " has no ",
        adapter.config->peft_type(),
        " adapter of this kind for ",
        detail::list_names(layers),
        "; the file loads here, not there"));
  }
}

void check_can_be_saved(
    const detail::AdapterRecord& adapter,
    const SaveOptions& options) {
  if (!adapter.source) {
    detail::check_filled(adapter, "save");
  }
  if (options.as_plain_lora &&
      !detail::method_entry(*adapter.config).make_plain) {
    throw Error(
        ErrorKind::unsupported,
        detail::concat(
            "cannot save adapter '",
            adapter.name,
            "' as plain LoRA: it is ",
            adapter.config->peft_type(),
            "; save it without as_plain_lora"));
  }
}

void write_folder(
    const AdapterConfig& config,
    const StateDict& weights,
    const fs::path& directory) {
  StateDict tensors;
  for (const auto& item : weights) {
    tensors.insert("base_model.model." + item.key(), item.value());
  }
  const std::string json = to_json(config);
  // The config is on disk before the weights take their name, and takes its
  // own right after them.
  detail::AtomicFile config_file(directory / config_name);
  config_file.write(json.data(), json.size());
  config_file.flush();
  save_safetensors(tensors, directory / weights_name);
  config_file.publish();
}

void save_record(
    detail::ModelState& state,
    detail::AdapterRecord& adapter,
    const detail::Host& host,
    const fs::path& directory,
    const SaveOptions& options) {
  detail::make_resident(state, {&adapter});
  warn_of_what_peft_lacks(adapter);
  auto config = adapter.config->clone();
  config->inference_mode = true;  // as PEFT saves it, whatever it was
  if (detail::is_of_older_order(adapter.targets, *config)) {
    config->peft_version = detail::known_peft_version();
  }
  std::vector<std::string> paths;
  for (const detail::Target& target : adapter.targets) {
    paths.push_back(target.pattern_path);
  }
  const detail::MethodEntry& entry = detail::method_entry(*config);
  if (entry.settle) {
    entry.settle(*config, paths);
  }
  const bool as_plain_lora = options.as_plain_lora ||
      (entry.needs_plain_files && entry.needs_plain_files(*config));
  if (as_plain_lora) {
    entry.make_plain(*config);
  }
  detail::spell_out_saved_modules(*config, host);
  write_folder(
      *config, detail::written_tensors(adapter, as_plain_lora), directory);
}

}  // namespace

void save_pretrained(
    torch::nn::Module& model,
    const fs::path& directory,
    const SaveOptions& options) {
  const detail::ModuleHost host(model);
  const auto state = detail::get_state(host);
  const auto turn = state->lock();
  const auto folder_of = [&](const detail::AdapterRecord& adapter) {
    return adapter.name == "default" ? directory : directory / adapter.name;
  };
  for (const auto& adapter : state->adapters) {
    check_can_be_saved(*adapter, options);
  }
  // Folders first: a name that no folder can have is met before any file.
  for (const auto& adapter : state->adapters) {
    make_directory(folder_of(*adapter));
  }
  for (const auto& adapter : state->adapters) {
    save_record(*state, *adapter, host, folder_of(*adapter), options);
  }
}

void save_adapter(
    torch::nn::Module& model,
    const fs::path& directory,
    const std::string& adapter_name,
    const SaveOptions& options) {
  const detail::ModuleHost host(model);
  const auto state = detail::get_state(host);
  const auto turn = state->lock();
  auto& adapter = state->get(adapter_name, "save_adapter");
  check_can_be_saved(adapter, options);
  make_directory(directory);
  save_record(*state, adapter, host, directory, options);
}

void save_as_lora(
    torch::nn::Module& model,
    const fs::path& directory,
    RankChoice rank,
    const std::string& adapter_name) {
  LoraWeights lora = convert_to_lora(model, rank, adapter_name);
  lora.config.inference_mode = true;
  make_directory(directory);
  write_folder(lora.config, lora.weights, directory);
}

Adapters load_adapter(
    torch::nn::Module& model,
    const fs::path& directory,
    const std::string& adapter_name,
    const LoadOptions& options) {
  const auto config = load_adapter_config(directory);
  config->inference_mode = !options.is_trainable;
  const detail::ModuleHost host(model);
  const StateDict weights = detail::without_wrapper_names(
      load_peft_weights(directory),
      [&] { return detail::module_paths(host.layers()); });
  detail::add_modules_that_peft_saved(*config, host, weights);
  return detail::inject(
      *config,
      host,
      adapter_name,
      {.weights = &weights,
       .partial = options.partial,
       .own_base_weights = options.own_base_weights,
       .empty = !options.partial && !options.init_data,
       .init_data = options.init_data,
       .activate = options.activate,
       .autocast_adapter_dtype = options.autocast_adapter_dtype});
}

Adapters attach_adapter(
    torch::nn::Module& model,
    const fs::path& directory,
    const std::string& adapter_name,
    const AttachOptions& options) {
  const auto config = load_adapter_config(directory);
  config->inference_mode = true;
  const detail::ModuleHost host(model);
  std::set<std::string> modules;  // empty where no key has wrappers
  const StateDict shapes = detail::without_wrapper_names(
      load_peft_weights(directory),
      [&] { return modules = detail::module_paths(host.layers()); });
  detail::add_modules_that_peft_saved(*config, host, shapes);
  return detail::inject(
      *config,
      host,
      adapter_name,
      {.weights = &shapes,
       .empty = true,
       .activate = false,
       .autocast_adapter_dtype = options.autocast_adapter_dtype,
       .source = [directory, modules] {
         return detail::without_wrapper_names(
             load_peft_weights(directory),
             [&] { return modules; },
             /*quiet=*/true);
       }});
}

namespace {

void attach_in_place_of(
    const std::string& name,
    torch::nn::Module& model,
    detail::ModelState& state,
    const fs::path& directory) {
  const std::string next = name + " (new)";
  Adapters adapters = attach_adapter(
      model,
      directory,
      next,
      {.autocast_adapter_dtype = state.find(name)->autocast_dtype});
  try {
    detail::take_over(state, next, name);
  } catch (...) {
    adapters.delete_adapter(next);
    throw;
  }
}

}  // namespace

LoadReport hotswap_adapter(
    torch::nn::Module& model,
    const fs::path& directory,
    const std::string& adapter_name) {
  const auto state = detail::get_state(detail::ModuleHost(model));
  const auto turn = state->lock();
  const auto& record = state->get(adapter_name, "hotswap_adapter");
  if (record.source) {
    detail::check_not_merged(*state, record, "hotswap_adapter");
    attach_in_place_of(adapter_name, model, *state, directory);
    return {};
  }
  const auto config = load_adapter_config(directory);
  return hotswap_adapter(
      model, load_peft_weights(directory), *config, adapter_name);
}

}  // namespace peft
