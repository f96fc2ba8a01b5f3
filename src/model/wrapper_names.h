// SPDX-License-Identifier: Apache-2.0
// What wrappers of modules in Python put into keys: "_orig_mod", "module".
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/mistakes.h"
#include "hosting/host.h"
#include "peft/state_dict.h"

namespace peft::detail {

/// Every path of a module of the model, and of the parts of a layer that keys
/// name.
std::set<std::string> module_paths(const std::vector<HostedLayer>& layers);

/// `weights` without the parts of keys that are wrappers' of Python and no
/// modules of this model: "_orig_mod" (torch.compile), "module" (DataParallel),
/// "_fsdp_wrapped_module", "_checkpoint_wrapped_module". A key is left as it is
/// when what is left of it is no module's either, or another key says the same.
/// Warns once of what was taken out, unless `quiet`.
StateDict without_wrapper_names(
    const StateDict& weights,
    const std::function<std::set<std::string>()>& paths,
    bool quiet = false);

/// Adds a mistake when `keys`, which fit nowhere, carry names of wrappers.
void explain_wrappers(const std::vector<std::string>& keys, Mistakes& mistakes);

}  // namespace peft::detail
