// SPDX-License-Identifier: Apache-2.0
// Adapters in TorchScript models, scripted or traced, before or after their
// first run. TorchScript is deprecated since torch 2.11; new models are better
// exported (peft/exported_program.h).
//
//   auto script = torch::jit::load("model.pt");
//   auto adapters = peft::inject_adapter_in_model(config, script);
//   auto logits = script.forward({ids});           // now adapted
//
// Adapters stay with the script's own objects: a copy of the torch::jit::Module
// handle has them; deepcopy() holds the merged weights as plain ones, and
// save() throws (save_script and save_merged do not). From the first injection
// on, the methods run without TorchScript's own fusions and autodiff, which
// would drop adapters' gradients.
#pragma once

#include <filesystem>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include "peft/adapter_folder.h"
#include "peft/adapters.h"
#include "peft/export.h"
#include "peft/match_report.h"
#include "peft/state_dict.h"

namespace torch::jit {
struct Module;
}

namespace peft {

/// The tree of a script's weights, for every function of the library that takes
/// a torch::nn::Module&. The functions below make one for themselves.
class PEFT_API ScriptModule {
 public:
  /// Throws Error (unsupported) for a frozen module.
  explicit ScriptModule(const torch::jit::Module& module);

  /// Its paths and parameter names are those of the Python model. It has no
  /// forward of its own.
  torch::nn::Module& module() const { return *tree_; }
  operator torch::nn::Module&() const { return module(); }

 private:
  std::shared_ptr<torch::nn::Module> tree_;
};

/// Writes the module as torch::jit::Module::save does, with its own weights,
/// adapters left out. (save() itself throws on an adapted module.) A crash
/// leaves the old file or the new one. Throws Error (file).
PEFT_API void save_script(
    const torch::jit::Module& module,
    const std::filesystem::path& path);
/// The same with the active adapters merged into the weights.
PEFT_API void save_merged(
    const torch::jit::Module& module,
    const std::filesystem::path& path);

inline Adapters inject_adapter_in_model(
    const AdapterConfig& config,
    torch::jit::Module& model,
    const std::string& adapter_name = "default",
    const InjectOptions& options = {}) {
  return inject_adapter_in_model(
      config, ScriptModule(model), adapter_name, options);
}

inline MatchReport match_report(
    const AdapterConfig& config,
    const torch::jit::Module& model) {
  return match_report(config, ScriptModule(model).module());
}

inline Adapters adapters_of(const torch::jit::Module& model) {
  return adapters_of(ScriptModule(model).module());
}

inline void set_adapter(torch::jit::Module& model, const std::string& name) {
  adapters_of(model).set_adapter(name);
}

inline void set_adapter(
    torch::jit::Module& model,
    const std::vector<std::string>& names) {
  adapters_of(model).set_adapter(names);
}

inline void set_adapter(
    torch::jit::Module& model,
    std::initializer_list<std::string> names) {
  adapters_of(model).set_adapter(names);
}

inline void enable_adapters(torch::jit::Module& model, bool enabled) {
  adapters_of(model).enable_adapters(enabled);
}

inline void delete_adapter(torch::jit::Module& model, const std::string& name) {
  adapters_of(model).delete_adapter(name);
}

inline void unload(torch::jit::Module& model) {
  adapters_of(model).unload();
}

inline void merge_adapter(
    torch::jit::Module& model,
    const std::vector<std::string>& adapter_names = {}) {
  adapters_of(model).merge_adapter(adapter_names);
}

inline void unmerge_adapter(torch::jit::Module& model) {
  adapters_of(model).unmerge_adapter();
}

inline void merge_and_unload(
    torch::jit::Module& model,
    const std::vector<std::string>& adapter_names = {},
    bool in_place = false) {
  adapters_of(model).merge_and_unload(adapter_names, in_place);
}

inline StateDict get_peft_model_state_dict(
    torch::jit::Module& model,
    const std::string& adapter_name = "default") {
  return get_peft_model_state_dict(ScriptModule(model), adapter_name);
}

inline LoadReport set_peft_model_state_dict(
    torch::jit::Module& model,
    const StateDict& state,
    const std::string& adapter_name = "default",
    bool ignore_mismatched_sizes = false) {
  return set_peft_model_state_dict(
      ScriptModule(model), state, adapter_name, ignore_mismatched_sizes);
}

inline void save_pretrained(
    torch::jit::Module& model,
    const std::filesystem::path& directory,
    const SaveOptions& options = {}) {
  save_pretrained(ScriptModule(model), directory, options);
}

inline void save_adapter(
    torch::jit::Module& model,
    const std::filesystem::path& directory,
    const std::string& adapter_name = "default",
    const SaveOptions& options = {}) {
  save_adapter(ScriptModule(model), directory, adapter_name, options);
}

inline Adapters load_adapter(
    torch::jit::Module& model,
    const std::filesystem::path& directory,
    const std::string& adapter_name = "default",
    const LoadOptions& options = {}) {
  return load_adapter(ScriptModule(model), directory, adapter_name, options);
}

}  // namespace peft
