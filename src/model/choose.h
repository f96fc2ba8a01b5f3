// SPDX-License-Identifier: Apache-2.0
// Adapters by name, as something that can run.
#pragma once

#include <string>
#include <vector>

#include "model/model_state.h"

namespace peft::detail {

/// Stands for no adapter in mixed batches.
constexpr const char* no_adapter = "__base__";

using Chosen = std::vector<const AdapterRecord*>;

/// What an error says of a name that no adapter has.
std::string no_such_adapter(const ModelState& state, const std::string& name);

/// An adapter for each name; nullptr with a mistake for one that does not exist
/// or is given twice.
std::vector<AdapterRecord*> look_up(
    const ModelState& state,
    const std::vector<std::string>& names,
    Mistakes& mistakes);

/// The adapters called `names`, with values in memory. Throws Error (state) for
/// names that do not exist or are given twice, and for two adapters that
/// replace the same module or row.
Chosen find_adapters(
    ModelState& state,
    const std::vector<std::string>& names,
    const char* asking);

/// In the order they apply.
AttachedAdapters in_order(const Chosen& chosen);

/// Makes these the model's own choice. A merged model is unmerged, with a
/// warning.
void choose(ModelState& state, AttachedAdapters adapters, const char* asking);

}  // namespace peft::detail
