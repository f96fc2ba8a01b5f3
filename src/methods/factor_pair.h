// SPDX-License-Identifier: Apache-2.0
// What a scheme that starts LoRA's factors from a matrix hands back.
#pragma once

#include <ATen/core/Tensor.h>

namespace peft::detail {

struct FactorPair {
  at::Tensor A;  ///< [r, in]
  at::Tensor B;  ///< [out, r]
};

}  // namespace peft::detail
