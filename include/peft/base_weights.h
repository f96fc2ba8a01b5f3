// SPDX-License-Identifier: Apache-2.0
// The model's own weights, whatever adapters stand on them.
#pragma once

#include "peft/export.h"
#include "peft/state_dict.h"

namespace torch::nn {
class Module;
}

namespace peft {

enum class BaseValues {
  own,     ///< the live tensors, without any adapter, merged or not
  merged,  ///< what is merged, or else the active adapters, in copies
};

/// Parameters and buffers of the model itself under their own names, a shared
/// tensor under each of them: nothing is renamed by adapters. Throws Error
/// (state) as merge_adapter does.
PEFT_API StateDict get_base_model_state_dict(
    const torch::nn::Module& model,
    BaseValues values = BaseValues::own);

/// Copies `state` into the model's own tensors, whatever its dtype and device;
/// adapters stay, and merged weights follow. Throws Error (shape) naming every
/// entry of another shape, or with integers that the model's floats cannot hold
/// exactly (or the other way round), and, when `strict`, every missing and
/// unexpected one; nothing is copied then.
PEFT_API LoadReport set_base_model_state_dict(
    torch::nn::Module& model,
    const StateDict& state,
    bool strict = true);

}  // namespace peft
