// SPDX-License-Identifier: Apache-2.0
// Attached adapters: see peft/attach.h.
#pragma once

#include "model/model_state.h"

namespace peft::detail {

/// Throws Error (state) for an adapter whose values are read from a folder,
/// which nothing else may change.
void check_not_attached(const AdapterRecord& record, const char* asking);

/// Reads the values of attached adapters that have none, after others have made
/// room; counts the use of those that have. Nothing for other adapters. One
/// operation's adapters are in memory together, whatever the budget.
void make_resident(
    ModelState& state,
    const std::vector<AdapterRecord*>& records);

/// What an adapter's tensors take.
std::int64_t size_of(const AdapterRecord& record);

}  // namespace peft::detail
