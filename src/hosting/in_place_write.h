// SPDX-License-Identifier: Apache-2.0
// What an operator means that writes in place to a weight with adapters.
//
// A whole weight that is written anew is an initialiser: the base is meant, and
// adapters act on what was written, as on any base. Zeros in a part of it are a
// mask, such as a forward puts on its weight before it reads it: they hold for
// what operators see, see weight_mask.h. Other values in a part, and sums, mean
// the base. What changes values otherwise (mul_, clamp_, a norm) would have to
// change what adapters add too: an error.
#pragma once

#include <functional>

#include "hosting/adapted_tensor.h"

namespace peft::detail {

/// The operator `op`, which writes `adapted`, in whose place `written` stands.
struct InPlaceWrite {
  const c10::OperatorHandle& op;
  const AdaptedTensor& adapted;
  const at::Tensor& written;
  /// Runs it on another tensor in the place of `written`.
  std::function<void(const at::Tensor&)> run_on;
  /// Gives the operator's result without running it.
  std::function<void()> give_result;
};

/// Runs `op`. Throws Error (unsupported), with nothing written, when it would
/// silently do less than it says.
void write_in_place(const InPlaceWrite& write);

/// Throws the same where adapters that run change the weight: for an operator
/// that writes several tensors at once, which is not looked into.
void check_unchanged(
    const c10::OperatorHandle& op,
    const AdaptedTensor& adapted);

/// What operators read; nothing where there is no such tensor.
std::optional<at::Tensor> reading_of(const AdaptedTensor& adapted);

/// Whether `data`, meant for the whole weight, is what operators read of it but
/// for zeros. Then these are written as a mask, and the rest stays.
bool write_masked_reading(const AdaptedTensor& adapted, const at::Tensor& data);

}  // namespace peft::detail
