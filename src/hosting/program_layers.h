// SPDX-License-Identifier: Apache-2.0
// Modules of exported programs as layers: their kind follows from the operators
// that read their weights and from the Python class that called them.
#pragma once

#include "graph/program_layer.h"
#include "hosting/layer_kinds.h"

namespace peft::detail {

/// nullptr for a module that is not part of a program's tree.
const graph::ProgramLayer* as_program_layer(const torch::nn::Module& module);

/// Whether `base` is the weight that `layer`, of whatever kind of model,
/// computes from others in each run: it has the shape of that weight, and as
/// soon as adapters stand on it the value that it had then.
bool is_computed(const torch::nn::Module& layer, const at::Tensor& base);
/// Gives such a base its value; does nothing to others.
void fill_computed(const torch::nn::Module& layer, const at::Tensor& base);
/// `value`, which a run computed, with the adapters of what stands for it.
at::Tensor stand_on_value(const at::Tensor& standing, const at::Tensor& value);

KnownLayer know_program_layer(const graph::ProgramLayer& layer);

}  // namespace peft::detail
