// SPDX-License-Identifier: Apache-2.0
// NaN and infinity in tensors; in data, told as a mistake in the data.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>
#include <ATen/ops/isfinite.h>

#include "methods/factor_pair.h"
#include "peft/error.h"

namespace peft::detail {

/// Whether no entry is NaN or infinite.
inline bool is_finite(const at::Tensor& tensor) {
  return at::isfinite(tensor).all().item<bool>();
}

/// Throws Error (input) saying `what` when an entry is NaN or infinite.
inline void check_finite(const at::Tensor& tensor, const std::string& what) {
  if (!is_finite(tensor)) {
    throw Error(ErrorKind::input, what);
  }
}

inline void check_finite(const FactorPair& pair, const std::string& what) {
  check_finite(pair.A, what);
  check_finite(pair.B, what);
}

}  // namespace peft::detail
