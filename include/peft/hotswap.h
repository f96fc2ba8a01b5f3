// SPDX-License-Identifier: Apache-2.0
// Another adapter's weights under a name that is in use: for serving, where a
// new version of an adapter arrives while requests run, and for training, where
// an optimiser holds the tensors.
#pragma once

#include <filesystem>
#include <string>

#include "peft/adapter_config.h"
#include "peft/export.h"
#include "peft/state_dict.h"

namespace torch::nn {
class Module;
}

namespace peft {

/// Gives adapter `adapter_name` the config and the tensors of another adapter
/// of the same method: another rank (rank_pattern and alpha_pattern count),
/// alpha, rsLoRA or DoRA. It stays on the layers it is on: those that the other
/// adapter leaves out get tensors without effect; the missing keys of these are
/// returned. Tensors for other layers: Error (shape). A merged adapter: Error
/// (state). Nothing has changed after an Error.
///
/// A frozen adapter is replaced by one store: forwards in other threads that
/// have begun in a scope (peft/scopes.h) finish with the old weights, later
/// ones see the new ones, none sees both. Tensors that require grad stay the
/// same objects where their layer's shapes stay, with new values, and go on
/// requiring grad; no forward may run meanwhile.
PEFT_API LoadReport hotswap_adapter(
    torch::nn::Module& model,
    const StateDict& weights,
    const AdapterConfig& config,
    const std::string& adapter_name = "default");

/// The same from an adapter's folder. An attached adapter (peft/attach.h) is
/// attached to that folder instead, by one store too: on that adapter's layers,
/// and read when it is next chosen, or now if it is active.
PEFT_API LoadReport hotswap_adapter(
    torch::nn::Module& model,
    const std::filesystem::path& directory,
    const std::string& adapter_name = "default");

}  // namespace peft
