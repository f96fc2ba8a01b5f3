// SPDX-License-Identifier: Apache-2.0
// Adapters on a single tensor, the door that modules are a convenience above:
//
//   at::Tensor w = peft::adapt(weight, config);   // stands wherever weight did
//   at::Tensor y = torch::linear(x, w);
//   torch::optim::AdamW optimizer(peft::adapter_parameters(w), 1e-3);
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "peft/adapter_config.h"
#include "peft/export.h"
#include "peft/layer_kinds.h"

namespace peft {

/// A tensor that reads as `weight` with a new adapter on it. `weight` itself is
/// neither copied nor changed (and keeps its requires_grad). `use` says how the
/// weight is laid out; config's target fields play no part. A method that also
/// changes the layer's bias (IA3) changes none here. On a bfloat16 or float16
/// weight the adapter is float32 unless `autocast_adapter_dtype` is false.
/// Throws Error.
PEFT_API at::Tensor adapt(
    const at::Tensor& weight,
    const AdapterConfig& config,
    WeightUse use = WeightUse::linear,
    bool autocast_adapter_dtype = true);

/// True for adapted tensors, those in adapted modules included.
PEFT_API bool is_adapted(const at::Tensor& tensor);

/// The plain tensor below the adapters, with its own storage. A plain tensor
/// is returned as it is. For a view of an adapted tensor: that view of it.
PEFT_API at::Tensor base_weight(const at::Tensor& tensor);

/// A plain tensor with the active adapters applied, differentiable.
PEFT_API at::Tensor effective_weight(const at::Tensor& tensor);

/// What adapt() made trainable: for LoRA A [r, in] and B [out, r].
PEFT_API std::vector<at::Tensor> adapter_parameters(const at::Tensor& tensor);

}  // namespace peft
