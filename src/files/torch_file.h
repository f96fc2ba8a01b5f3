// SPDX-License-Identifier: Apache-2.0
// Files of torch.save that hold a dict of tensors (adapter_model.bin), read
// without running anything that they say.
#pragma once

#include <filesystem>

#include "peft/safetensors.h"

namespace peft::detail {

/// The tensors of the file, in its order, on the CPU; those that were views of
/// one storage still are. Throws Error: file for all that is wrong with it,
/// unsupported for the format of torch before 1.6.
StateDict load_torch_file(const std::filesystem::path& path);

}  // namespace peft::detail
