// SPDX-License-Identifier: Apache-2.0
// An adapter's tensors under Python PEFT's names.
#pragma once

#include <string>
#include <vector>

#include "peft/export.h"
#include "peft/safetensors.h"

namespace torch::nn {
class Module;
}

namespace peft {

/// What set_peft_model_state_dict found.
struct PEFT_API LoadReport {
  /// Tensors of the adapter that the state dict does not have.
  std::vector<std::string> missing_keys;
  /// Entries of the state dict that fit nowhere in the adapter.
  std::vector<std::string> unexpected_keys;
  /// Entries left out because their shape differs: "key: given [4, 8], the
  /// adapter has [8, 8]". Only with ignore_mismatched_sizes.
  std::vector<std::string> mismatched;
};

/// The live tensors of one adapter, modules_to_save and trained biases with
/// them, under PEFT's keys without the "base_model.model." prefix:
/// "layers.0.query.lora_A.weight" [r, in]. Throws Error (state) when the model
/// has no such adapter.
PEFT_API StateDict get_peft_model_state_dict(
    torch::nn::Module& model,
    const std::string& adapter_name = "default");

/// Copies `state` into the adapter, whatever its dtype and device. Keys may
/// carry "base_model.model.", which marks a file's: factors of experts in them
/// are in the order of the config's peft_version. Throws Error (shape) naming
/// every entry that is misspelt ("lora_a"), whose shape differs (unless
/// ignore_mismatched_sizes), or which holds integers that
/// the adapter's floats cannot hold exactly, or the other way round; nothing is
/// copied then.
PEFT_API LoadReport set_peft_model_state_dict(
    torch::nn::Module& model,
    const StateDict& state,
    const std::string& adapter_name = "default",
    bool ignore_mismatched_sizes = false);

}  // namespace peft
