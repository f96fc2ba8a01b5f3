// SPDX-License-Identifier: Apache-2.0
// The JSON of a safetensors header as declared by the file: right in form (the
// fields are there, once each, and of the right type), but with values that
// nobody has checked yet; safetensors_header.h does that.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/mistakes.h"

namespace peft::detail {

struct DeclaredTensor {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  std::vector<uint64_t> offsets;
};

struct DeclaredHeader {
  std::vector<DeclaredTensor> tensors;  // in the order of the header
  std::map<std::string, std::string> metadata;
};

/// Adds everything that is wrong to `mistakes`; tensors with a mistake are left
/// out. Needs memory in proportion to `json`, whatever its nesting.
DeclaredHeader parse_safetensors_json(
    std::string_view json,
    Mistakes& mistakes);

/// `text` in quotes, at most 100 bytes of it, fit to be printed.
std::string quote(std::string_view text);

}  // namespace peft::detail
