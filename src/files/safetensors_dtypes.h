// SPDX-License-Identifier: Apache-2.0
// The dtypes of the safetensors format: their names in the header and their
// sizes. Which of them libtorch has is in tensor_dtypes.h.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace peft::detail {

struct SafetensorsDtype {
  std::string_view name;
  size_t bits;  // of one element; below 8 for packed dtypes
  int rank;     // files hold tensors of higher rank first
};

/// nullptr when the format has no dtype of that name.
const SafetensorsDtype* find_dtype(std::string_view name);

/// "BOOL, F4, ..., U64", for messages.
std::string all_dtype_names();

}  // namespace peft::detail
