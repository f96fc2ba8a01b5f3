// SPDX-License-Identifier: Apache-2.0
// Moving a model whose recurrent layers have adapters.
#pragma once

#include <torch/nn/module.h>

#include "peft/export.h"

namespace peft {

/// What model.to(...) does, with or without adapters, and also where adapters
/// stand on an RNN, LSTM or GRU: these make the list of what they read anew in
/// to(), so with adapters on, their own to() is an error. No forward may run
/// meanwhile. Throws Error (state) when the adapters in `model` were injected
/// through another module. What libtorch throws leaves the adapters on the
/// layers, as far as these have moved.
PEFT_API void to(
    torch::nn::Module& model,
    torch::Device device,
    torch::Dtype dtype,
    bool non_blocking = false);
PEFT_API void
to(torch::nn::Module& model, torch::Dtype dtype, bool non_blocking = false);
PEFT_API void
to(torch::nn::Module& model, torch::Device device, bool non_blocking = false);

}  // namespace peft
