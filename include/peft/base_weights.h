// SPDX-License-Identifier: Apache-2.0
// The model's own weights, whatever adapters stand on them.
#pragma once

#include <filesystem>
#include <iosfwd>

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
/// tensor under each of them: nothing is renamed by adapters. Each is what its
/// layer's forward reads: of a head that is tied by `head->weight =
/// tokens->weight` that is the table, where libtorch's named_parameters() goes
/// on giving what the head was made with. Throws Error (state) as merge_adapter
/// does.
PEFT_API StateDict get_base_model_state_dict(
    const torch::nn::Module& model,
    BaseValues values = BaseValues::own);

/// Copies `state` into the model's own tensors, whatever its dtype and device;
/// adapters stay, and merged weights follow. Of a tensor that layers share one
/// entry is enough. Throws Error (shape) naming every entry of another shape,
/// or with integers that the model's floats cannot hold exactly (or the other
/// way round), two of one tensor that differ and, when `strict`, every missing
/// and unexpected one; nothing is copied then.
PEFT_API LoadReport set_base_model_state_dict(
    torch::nn::Module& model,
    const StateDict& state,
    bool strict = true);

/// torch::load for the base of a model that has adapters: reads what
/// torch::save wrote of the model without any into its own tensors, whatever
/// their dtype and device, where torch::load asks for the adapters too ("No
/// such serialized submodule"). Adapters stay, and merged weights follow.
///
/// Throws Error (file) for what is no such archive, and Error (shape) naming
/// every tensor of another shape and, when `strict`, every missing and
/// unexpected one, as set_base_model_state_dict does; nothing is copied then.
PEFT_API LoadReport load_base_archive(
    torch::nn::Module& model,
    const std::filesystem::path& file,
    bool strict = true);
PEFT_API LoadReport load_base_archive(
    torch::nn::Module& model,
    std::istream& archive,
    bool strict = true);

}  // namespace peft
