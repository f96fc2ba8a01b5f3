// SPDX-License-Identifier: Apache-2.0
#include "model/combination.h"

#include <algorithm>

#include "base/text.h"
#include "model/adapter_tensors.h"
#include "model/injection.h"

namespace peft::detail {
namespace {

// Copies of modules, which one adapter has alone.
void insert_copies(StateDict& weights, const std::vector<Source>& sources) {
  for (const auto& [record, weight] : sources) {
    for (const Target& target : record->targets) {
      if (target.is_copy() && !target.tied_to) {
        weights.insert(
            join_path(target.file_prefix, target.specs[0].file_name),
            target.attachment->parameters[0].detach());
      }
    }
  }
}

bool keeps_float32(const Source& source) {
  return source.record->autocast_dtype;
}

}  // namespace

std::unique_ptr<AdapterConfig> combined_config(
    const std::vector<Source>& sources) {
  auto config = sources.front().record->config->clone();
  config->inference_mode = true;
  if (config->target_rules().target_parameters.empty()) {
    config->target_modules = {};  // the tensors tell
  }
  std::vector<std::string> saved;
  for (const auto& [record, weight] : sources) {
    for (const auto& name : record->config->modules_to_save) {
      if (std::find(saved.begin(), saved.end(), name) == saved.end()) {
        saved.push_back(name);
      }
    }
  }
  config->modules_to_save = std::move(saved);
  return config;
}

Adapters add_combined(
    const CombinationRequest& request,
    const AdapterConfig& config,
    StateDict weights) {
  const auto& sources = request.sources;
  insert_copies(weights, sources);
  const bool by_parameters = !config.target_rules().target_parameters.empty();
  return inject(
      config,
      request.host,
      request.name,
      {.layers_of = by_parameters ? nullptr : &weights,
       .weights = &weights,
       .own_base_weights = true,
       .activate = false,
       .autocast_adapter_dtype =
           std::any_of(sources.begin(), sources.end(), keeps_float32)});
}

}  // namespace peft::detail
