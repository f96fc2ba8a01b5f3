// SPDX-License-Identifier: Apache-2.0
// The dispatch key that adapted tensors carry, named here and nowhere else.
//
// DeferredInit is a functionality key made for out-of-tree use; libtorch
// registers nothing under it. It stands above autocast and autograd, so an
// operator that meets an adapted tensor lands in our kernel first, and the
// plain operators our kernel calls get autocast and autograd as usual.
#pragma once

#include <c10/core/DispatchKey.h>

namespace peft::detail {

inline constexpr auto adapter_key = c10::DispatchKey::DeferredInit;

/// Registers the kernels of adapted tensors once per process. Called when the
/// first adapted tensor is made, not from a static initialiser, which a linker
/// would drop from a static library.
void register_kernels();

}  // namespace peft::detail
