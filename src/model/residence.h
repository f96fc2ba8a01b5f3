// SPDX-License-Identifier: Apache-2.0
// Attached adapters: see peft/attach.h.
#pragma once

#include "model/model_state.h"

namespace peft::detail {

/// Throws Error (state) for an adapter whose values are read from a folder,
/// which nothing else may change.
void check_not_attached(const AdapterRecord& record, const char* asking);

/// Reads the values of an attached adapter that has none, after others have
/// made room; counts the use of one that has. Nothing for other adapters.
void make_resident(ModelState& state, AdapterRecord& record);

/// What an adapter's tensors take.
std::int64_t size_of(const AdapterRecord& record);

}  // namespace peft::detail
