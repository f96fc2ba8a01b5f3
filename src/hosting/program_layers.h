// SPDX-License-Identifier: Apache-2.0
// Modules of exported programs as layers: their kind follows from the operators
// that read their weights and from the Python class that called them.
#pragma once

#include "graph/program_layer.h"
#include "hosting/layer_kinds.h"

namespace peft::detail {

/// nullptr for a module that is not part of a program's tree.
const graph::ProgramLayer* as_program_layer(const torch::nn::Module& module);

KnownLayer know_program_layer(const graph::ProgramLayer& layer);

}  // namespace peft::detail
