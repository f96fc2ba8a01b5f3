// SPDX-License-Identifier: Apache-2.0
// The table of layer kinds: which members of a layer object hold tensors, and
// which operator reads those that take adapters.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include "methods/weight_layout.h"
#include "peft/layer_kinds.h"

namespace peft::detail {

/// One tensor member of a layer object.
struct TensorMember {
  std::string name;
  at::Tensor* tensor;
  std::optional<WeightLayout> layout = {};  // set: adapters may stand on it
  bool bare = false;
  std::string holder = "";
  /// The layer may move it: it must be asked for again before it is written.
  bool moves = false;
};

/// What the table knows of a layer object.
struct KnownLayer {
  std::string kind;  // "Linear"
  bool linear = false;
  std::vector<TensorMember> members = {};
  std::vector<std::string> companions = {};
};

/// nullopt when no kind, registered or built in, fits.
std::optional<KnownLayer> know_layer(torch::nn::Module& layer);

/// How a weight that an operator reads so is laid out.
WeightLayout
layout_of(const at::Tensor& weight, WeightUse use, std::int64_t groups);

/// The class name for messages: "Linear" for torch::nn::LinearImpl.
std::string type_name(const torch::nn::Module& module);

/// Whether a layer is a convolution of libtorch, which reads its number of
/// groups on each forward.
bool has_groups_of_its_own(const torch::nn::Module& layer);
/// Makes it a convolution in one group; its weight is the caller's to change.
void join_groups(torch::nn::Module& layer);

/// Tells an embedding or a linear layer of libtorch how many rows its weight
/// has; other layers ask the weight.
void set_rows(torch::nn::Module& layer, std::int64_t rows);

}  // namespace peft::detail
