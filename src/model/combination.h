// SPDX-License-Identifier: Apache-2.0
// An adapter made of several, by method; and what all methods do alike.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hosting/module_host.h"
#include "model/combine_checks.h"
#include "peft/combine.h"

namespace peft::detail {

/// A new adapter that is to be made of others in one model.
struct CombinationRequest {
  const ModuleHost& host;
  const std::shared_ptr<ModelState>& state;
  const std::vector<Source>& sources;
  const std::string& name;
};

Adapters combine_lora(
    const CombinationRequest& request,
    const CombineOptions& options,
    Combination how,
    Mistakes& mistakes);

Adapters combine_ia3(const CombinationRequest& request, Mistakes& mistakes);

/// The first one's, for what all of them target; not to be trained.
std::unique_ptr<AdapterConfig> combined_config(
    const std::vector<Source>& sources);

/// Injects the adapter with its `weights`, to which the sources' copies of
/// modules come, and does not activate it.
Adapters add_combined(
    const CombinationRequest& request,
    const AdapterConfig& config,
    StateDict weights);

}  // namespace peft::detail
