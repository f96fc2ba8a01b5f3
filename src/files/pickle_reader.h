// SPDX-License-Identifier: Apache-2.0
// The pickle inside a file of torch.save, read as what it says of tensors. It
// runs nothing: of all that a pickle can name, only what a dict of tensors is
// made of is known (see known_globals in the .cpp), and anything else is an
// error by its name. What is said of sizes is not checked here, and no memory
// is taken by it. Knows no libtorch.
// Opcodes: Python's Lib/pickletools.py; reduced forms: torch/_utils.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace peft::detail {

/// One tensor as the pickle has it: a window of a storage.
struct PickledTensor {
  std::string name;
  std::string dtype;    // "FloatStorage", or "float8_e4m3fn"
  std::string storage;  // the name of its record
  /// Of the storage: in elements, or in bytes where `in_bytes`.
  std::int64_t length = 0;
  bool in_bytes = false;
  std::int64_t offset = 0;
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> strides;
};

/// The entries of a dict of tensors, in order. Throws Error (file) that starts
/// with `origin`.
std::vector<PickledTensor> read_pickled_tensors(
    std::string_view pickle,
    const std::string& origin);

}  // namespace peft::detail
