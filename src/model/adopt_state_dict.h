// SPDX-License-Identifier: Apache-2.0
// A config by the keys and shapes of an adapter's tensors: which layers, which
// ranks, which variant.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hosting/host.h"
#include "methods/method_table.h"
#include "peft/state_dict.h"

namespace peft::detail {

/// `config` with what `weights` tell about it. Warns of layers that the config
/// would choose otherwise. Throws Error: target when no layer of the model has
/// a tensor in `weights`, config for target_parameters, whose keys do not tell
/// which parameters they are for.
std::unique_ptr<AdapterConfig> adopt_state_dict(
    const AdapterConfig& config,
    const Host& host,
    const StateDict& weights);

/// target_modules for exactly the modules at `paths`: their names where those
/// end no other path of `layers`, and else one pattern.
ModuleChoice exact_choice(
    const std::vector<std::string>& paths,
    const std::vector<HostedLayer>& layers);

}  // namespace peft::detail
