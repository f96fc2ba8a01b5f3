// SPDX-License-Identifier: Apache-2.0
// Many adapters on one model, of which a few are in memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "peft/adapters.h"
#include "peft/export.h"

namespace peft {

struct AttachOptions {
  /// False: values take the dtype of a bfloat16 or float16 model, half the
  /// memory, instead of float32: see InjectOptions.
  bool autocast_adapter_dtype = true;
};

/// Adds the adapter in `directory`, frozen and not active, without reading its
/// weights: config and shapes are checked now, values are read when it is first
/// chosen (UseAdapter, BatchAdapters, set_adapter) or asked for (merging,
/// saving, combining). It adds nothing to the module tree, and dropout never
/// acts in it. The folder must stay where and as it is. Throws Error as
/// load_adapter does; the model is then as it was.
PEFT_API Adapters attach_adapter(
    torch::nn::Module& model,
    const std::filesystem::path& directory,
    const std::string& adapter_name,
    const AttachOptions& options = {});

/// How many bytes the values of attached adapters may take: beyond it, those
/// least recently chosen are let go of before another is read. Not set: no
/// limit. Adapters that are active or merged stay, and those that a scope runs
/// live until it ends.
PEFT_API void set_memory_budget(
    const Adapters& adapters,
    std::optional<std::int64_t> bytes);

/// What the values of attached adapters take now.
PEFT_API std::int64_t resident_bytes(const Adapters& adapters);
/// Whether an adapter's values are in memory: true for those not attached.
PEFT_API bool is_resident(const Adapters& adapters, const std::string& name);
/// Lets go of an attached adapter's values until it is next chosen. Throws
/// Error (state) for one that is active, merged or not attached.
PEFT_API void evict(const Adapters& adapters, const std::string& name);

}  // namespace peft
