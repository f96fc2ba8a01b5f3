// SPDX-License-Identifier: Apache-2.0
// Dtypes, layouts, memory formats and devices as a .pt2 writes them: numbers
// of its own, not c10's.
//
// Source: ScalarType, Layout, MemoryFormat in torch/_export/serde/schema.py.
#pragma once

#include <cstdint>
#include <optional>

#include <c10/core/Device.h>
#include <c10/core/Layout.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/ScalarType.h>

#include "graph/json_fields.h"

namespace peft::graph {

/// nullopt for a number that the schema does not know.
std::optional<at::ScalarType> to_scalar_type(std::int64_t number);
std::optional<at::Layout> to_layout(std::int64_t number);
std::optional<at::MemoryFormat> to_memory_format(std::int64_t number);

/// {"type": "cuda", "index": 0}. Throws BrokenJson.
at::Device read_device(const Json& json);

}  // namespace peft::graph
