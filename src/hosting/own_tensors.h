// SPDX-License-Identifier: Apache-2.0
// A module's own parameters and buffers as its forward reads them.
//
// libtorch's layers read public members, and what named_parameters() gives is a
// second list: `head->weight = tokens->weight` ties two layers, and the tensor
// that the head was made with stays in the head's list, read by nobody.
#pragma once

#include <string>
#include <vector>

#include <torch/nn/module.h>

namespace peft::detail {

struct OwnTensor {
  std::string name;
  at::Tensor registered;  // what named_parameters(), named_buffers() give
  at::Tensor read;        // what forward reads: nearly always the same
  bool is_buffer = false;
};

/// Those that are registered on `module` itself, adapters left out.
std::vector<OwnTensor> own_tensors_of(const torch::nn::Module& module);

}  // namespace peft::detail
