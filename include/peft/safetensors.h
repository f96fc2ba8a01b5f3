// SPDX-License-Identifier: Apache-2.0
// Reads and writes safetensors files, the format of adapter_model.safetensors:
// https://huggingface.co/docs/safetensors (8-byte little-endian header length,
// JSON header, tensor bytes). Reading maps the file and copies nothing; every
// offset is checked before it is used.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>
#include <torch/csrc/api/include/torch/ordered_dict.h>

#include "peft/export.h"

namespace peft {

/// Named tensors in order; PEFT's state dicts.
using StateDict = torch::OrderedDict<std::string, at::Tensor>;

/// Every tensor of the file in order of its data, without copying: tensors
/// keep a private map of the file alive (writing to one changes memory, never
/// the file). Tensors not aligned for their dtype are copied. `metadata`, when
/// given, receives the header's "__metadata__".
/// Throws Error (file) naming all that is wrong with the file.
PEFT_API StateDict load_safetensors(
    const std::filesystem::path& path,
    std::map<std::string, std::string>* metadata = nullptr);

/// Writes `tensors` as the safetensors library does: largest dtype first, then
/// by name; any device, strides and aliasing; no "__metadata__" when `metadata`
/// is empty. Crash-safe: a new file beside `path` (a link is followed), flushed
/// to disk, then renamed over it. Throws Error (file); `path` is then as it
/// was.
PEFT_API void save_safetensors(
    const StateDict& tensors,
    const std::filesystem::path& path,
    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace peft
