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
enum class Form { matrix, table, kernel, stack };

/// One weight of a layer, and the bias that the layer adds to what it gives.
struct WeightCase {
  Form form;
  /// The member that forward reads.
  std::function<Tensor&(nn::Module&)> weight;
  /// The member that holds the bias, undefined for none; nullptr where the
  /// layer could add none.
  std::function<Tensor*(nn::Module&)> bias = [](nn::Module&) {
    return nullptr;
  };
  /// The rows that are its own, of a bias that several weights share.
  std::optional<std::pair<int64_t, int64_t>> bias_rows = {};
  int64_t groups = 1;  // of a kernel
  bool inputs_first = false;
  /// No linear map, lookup or convolution of its own reads it.
  bool bare = false;
};

/// A layer kind.
struct LayerCase {
  std::string name;
  std::vector<WeightCase> weights;  // in the order of Adapters::parameters
  std::function<std::shared_ptr<nn::Module>()> make;
  std::function<Tensor(nn::Module&, const Tensor&)> forward;
  std::function<Tensor()> input;
  /// The same layer in a program; nullptr for what is several nodes there.
  ProgramLayerHost::AddNode add_node = nullptr;
  /// The dimension of input and output that counts rows; none: it has no batch.
  std::optional<int64_t> batch = 0;
  /// Makes one group of a convolution's; its weight is then another.
  std::function<void(nn::Module&)> join_groups = nullptr;
  /// As many times as a Linear's the rounding errors of its outputs are.
  double rounds = 1;
  /// Whether every dtype is tried; else float32 and bfloat16.
  bool every_dtype = true;
  // What its one operator, which no adapter can act inside, takes away.
  bool runs_on_factors = true;
  bool takes_mixed_batches = true;
  bool moves_with_adapters = true;
};

void PrintTo(const LayerCase& layer, std::ostream* out);

std::vector<LayerCase> layer_cases();

/// Layers with several weights or with one in an order of its own: attention,
/// recurrent layers, classes of the user's.
std::vector<LayerCase> other_layer_cases();

inline std::function<Tensor()> normal(std::vector<int64_t> shape) {
  return [shape] { return torch::randn(shape); };
}

}  // namespace peft_test
