// SPDX-License-Identifier: Apache-2.0
// Adapter folders as Python PEFT writes them: adapter_config.json and
// adapter_model.safetensors. What is saved here loads there, and the other way
// round.
#pragma once

#include <filesystem>
#include <string>

#include "peft/adapters.h"
#include "peft/export.h"
#include "peft/state_dict.h"

namespace peft {

struct SaveOptions {
  /// True: LoRA that started from a part of the weight (pissa, olora) is
  /// written as plain LoRA of twice the rank, whose product with the first
  /// factors taken off: it loads on the plain model, beside other adapters, and
  /// without taking the weight apart again. "corda" and "lora_ga" are always
  /// written so, since nothing but their data tells what they started from.
  bool as_plain_lora = false;
};

/// Saves every adapter of `model`: "default" into `directory`, others into
/// directory/<name>/, as PEFT does. Each file is written beside the old one,
/// flushed and renamed: a crash leaves the old or the new one, whole.
/// Throws Error (file, state).
PEFT_API void save_pretrained(
    torch::nn::Module& model,
    const std::filesystem::path& directory,
    const SaveOptions& options = {});

/// Saves one adapter into `directory` itself, whatever its name.
PEFT_API void save_adapter(
    torch::nn::Module& model,
    const std::filesystem::path& directory,
    const std::string& adapter_name = "default",
    const SaveOptions& options = {});

struct LoadOptions {
  /// False: the adapter is frozen, for inference, as in PEFT.
  bool is_trainable = false;
  /// True: tensors missing from the file keep their first values and tensors
  /// that fit nowhere are left out, both with a warning, instead of an Error.
  bool partial = false;
  /// What a file holds of the base itself ("<layer>.base_layer.weight") is
  /// never written to the base. Values that differ from it become this
  /// adapter's own copy where the layer is an embedding or the head that goes
  /// with it, with the file's number of rows; for other layers they are an
  /// Error, unless this is true.
  bool own_base_weights = false;
  /// For an adapter that was trained from init_lora_weights = "corda" or
  /// "lora_ga" and not saved as plain LoRA: the data it started from.
  const StateDict* init_data = nullptr;
  /// False: what is active stays so, and the new adapter waits for set_adapter.
  bool activate = true;
  /// False: on a bfloat16 or float16 model the file's values are rounded to the
  /// dtype of their weight, instead of to float32: see InjectOptions.
  bool autocast_adapter_dtype = true;
};

/// Injects an adapter with the folder's config, fills it with the folder's
/// tensors and makes it active. Ranks follow the tensors' shapes where the
/// config's patterns disagree. Throws Error; the model is then as it was.
PEFT_API Adapters load_adapter(
    torch::nn::Module& model,
    const std::filesystem::path& directory,
    const std::string& adapter_name = "default",
    const LoadOptions& options = {});

/// The tensors of directory/adapter_model.safetensors under their keys in the
/// file, mapped, not copied; without such a file those of its shards
/// (adapter_model.safetensors.index.json), of adapter_model.bin (a dict of
/// tensors by torch.save, of which nothing is run), or of its shards. Throws
/// Error (file).
PEFT_API StateDict load_peft_weights(const std::filesystem::path& directory);

}  // namespace peft
