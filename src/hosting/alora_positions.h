// SPDX-License-Identifier: Apache-2.0
// Where aLoRA adapters act in what a layer computes: see peft/alora.h.
#pragma once

#include <ATen/core/Tensor.h>

#include "peft/alora.h"

namespace peft::detail {

/// Those of the innermost AloraScope of this thread, or nullptr.
const AloraOffsets* alora_offsets();

/// The activated positions of `features` [batch, positions, ..., features] or
/// [batch * positions, features], as indices into its rows when all dimensions
/// but the last are one: int64, on its device. Empty without an AloraScope.
/// Throws Error (shape) when the scope is for another batch.
at::Tensor activated_rows(const at::Tensor& features);

}  // namespace peft::detail
