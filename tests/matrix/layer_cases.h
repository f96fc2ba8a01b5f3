// SPDX-License-Identifier: Apache-2.0
// The layer kinds of the property matrix: in torch::nn modules and as nodes of
// exported programs.
#pragma once

#include <torch/torch.h>

#include "support/layer_host.h"

namespace peft_test {

namespace nn = torch::nn;
using torch::Tensor;

/// How a weight is laid out.
enum class Form { matrix, table, kernel };

/// A layer kind.
struct LayerCase {
  std::string name;
  Form form;
  std::function<std::shared_ptr<nn::Module>()> make;
  std::function<Tensor(nn::Module&, const Tensor&)> forward;
  std::function<Tensor&(nn::Module&)> weight;
  /// The handle of the bias; undefined for layers without one.
  std::function<Tensor(nn::Module&)> bias;
  std::function<Tensor()> input;
  /// The same layer in a program; nullptr for what is several nodes there.
  ProgramLayerHost::AddNode add_node;
};

void PrintTo(const LayerCase& layer, std::ostream* out);

std::vector<LayerCase> layer_cases();

}  // namespace peft_test
