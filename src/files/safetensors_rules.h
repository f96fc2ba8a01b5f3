// SPDX-License-Identifier: Apache-2.0
// The rules of the safetensors format for the values of a header: what each
// tensor must keep to, and how the tensors must fill the file.
#pragma once

#include <cstdint>
#include <vector>

#include "base/mistakes.h"
#include "files/safetensors_json.h"

namespace peft::detail {

/// False, with a mistake, when they do not say where the tensor lies.
bool check_offsets(const DeclaredTensor& tensor, Mistakes& mistakes);

/// A known dtype, a shape that fits into memory, and (`offsets_known`) offsets
/// that hold exactly as much.
void check_size(
    const DeclaredTensor& tensor,
    bool offsets_known,
    Mistakes& mistakes);

/// No holes, no overlaps, nothing left over or missing at the end of the
/// `data_size` bytes. `tensors` are sorted by their offsets.
void check_layout(
    const std::vector<DeclaredTensor>& tensors,
    uint64_t data_size,
    Mistakes& mistakes);

}  // namespace peft::detail
