// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file, checked: every tensor lies inside the file,
// has exactly the bytes that its shape and dtype need, and the tensors fill the
// file without overlaps or holes. Knows no libtorch.
// Format: https://huggingface.co/docs/safetensors
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/mistakes.h"
#include "files/safetensors_dtypes.h"

namespace peft::detail {

/// What a header may have at most, by the format.
inline constexpr uint64_t most_header_bytes = 100'000'000;

struct TensorEntry {
  std::string name;
  const SafetensorsDtype* dtype;
  std::vector<int64_t> shape;
  size_t begin;  // offsets from the start of the file
  size_t end;
};

struct SafetensorsHeader {
  std::vector<TensorEntry> tensors;  // in order of their bytes
  std::map<std::string, std::string> metadata;
};

/// `file` holds all bytes of a file. Throws the error of `mistakes`, with all
/// that is wrong, before anything is allocated by the sizes that it declares.
SafetensorsHeader read_safetensors_header(
    std::string_view file,
    Mistakes& mistakes);

}  // namespace peft::detail
