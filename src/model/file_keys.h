// SPDX-License-Identifier: Apache-2.0
// Keys of files and state dicts, part by part, as they meet a model: where the
// name of an adapter's tensor stands, and what wrappers of modules put between.
#pragma once

#include <cstddef>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/mistakes.h"
#include "hosting/host.h"
#include "peft/state_dict.h"

namespace peft::detail {

struct AdapterRecord;

/// Where the last part of `key` starts that is the name of a tensor of a method
/// (see is_tensor_name) and has a layer before it; std::string::npos.
std::size_t tensor_name_at(std::string_view key, std::string_view prefix = "");

/// Every path of a module of the model, and of the parts of a layer that keys
/// name.
std::set<std::string> module_paths(const std::vector<HostedLayer>& layers);
/// Those that the keys of one adapter go through.
std::set<std::string> module_paths(const AdapterRecord& record);

/// `weights` without the parts of keys that are wrappers' of Python and no
/// modules of this model: "_orig_mod" (torch.compile), "module" (DataParallel),
/// "_fsdp_wrapped_module", "_checkpoint_wrapped_module". A key is left as it is
/// when what is left of it is no module's either, or another key says the same.
/// Warns once of what was taken out, unless `quiet`.
StateDict without_wrapper_names(
    const StateDict& weights,
    const std::function<std::set<std::string>()>& paths,
    bool quiet = false);

/// Adds a mistake for keys that are spelled almost as PEFT spells them.
void check_spelling(const std::vector<std::string>& keys, Mistakes& mistakes);

/// Adds what is known of why `keys` fit nowhere: see above, and wrappers.
void explain_unexpected(
    const std::vector<std::string>& keys,
    Mistakes& mistakes);

/// Adds why tensors of `weights` have no elements, if some have none.
void explain_empty(const StateDict& weights, Mistakes& mistakes);

}  // namespace peft::detail
