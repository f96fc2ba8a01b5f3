// SPDX-License-Identifier: Apache-2.0
// Data that cannot be used, told as a mistake in the data.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>
#include <ATen/ops/isfinite.h>

#include "methods/factor_pair.h"
#include "peft/error.h"

namespace peft::detail {

/// Throws Error (input) saying `what` when an entry is NaN or infinite.
inline void check_finite(const at::Tensor& tensor, const std::string& what) {
  if (!at::isfinite(tensor).all().item<bool>()) {
    throw Error(ErrorKind::input, what);
  }
}

inline void check_finite(const FactorPair& pair, const std::string& what) {
  check_finite(pair.A, what);
  check_finite(pair.B, what);
}

}  // namespace peft::detail
