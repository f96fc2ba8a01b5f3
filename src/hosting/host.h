// SPDX-License-Identifier: Apache-2.0
// A model as everything above hosting sees it: layers with names and tensors
// that can be swapped. What kind of model it is, only a host knows.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include "hosting/choice.h"
#include "hosting/owner.h"
#include "methods/weight_layout.h"

namespace peft::detail {

/// The place a layer reads one of its tensors from.
class TensorPlace {
 public:
  virtual ~TensorPlace() = default;
  /// What stands there now; undefined when the layer is gone.
  virtual at::Tensor get() const = 0;
  /// Puts `tensor` there; does nothing when the layer is gone.
  virtual void put(const at::Tensor& tensor) = 0;
};

/// One tensor of a layer.
struct HostedTensor {
  std::string name;  // "weight"
  std::shared_ptr<TensorPlace> place;
  at::Tensor base;  // the plain tensor, adapted or not
  bool is_buffer = false;
  /// Set when adapters may stand on it.
  std::optional<WeightLayout> layout;
  /// A parameter without an operator of its own (PEFT: target_parameters).
  bool bare = false;
  /// Where its adapters' modules live below the layer: "" or "q_proj".
  std::string holder;
  /// Whether the layer trains; not set: its adapters' modules know.
  std::function<bool()> is_training;
};

/// One module of the model.
struct HostedLayer {
  std::string path;                 // "" for the root
  std::vector<std::string> others;  // further paths of the same object
  std::string type;                 // "Linear"
  bool linear = false;              // counted by "all-linear"
  std::vector<HostedTensor> tensors;
  /// Registered tensors that no layer kind knows how to swap.
  std::vector<std::string> unknown_tensors;
  /// Children that are adapted with this layer: MultiheadAttention's out_proj.
  std::vector<std::string> companions;
  /// The module that adapter submodules are registered on; none for the root.
  std::shared_ptr<torch::nn::Module> seat;

  bool adaptable() const {
    for (const auto& tensor : tensors) {
      if (tensor.layout) {
        return true;
      }
    }
    return false;
  }
};

class Host {
 public:
  virtual ~Host() = default;
  /// Every module in the model's order, each object once, adapters left out.
  virtual std::vector<HostedLayer> layers() const = 0;
  /// Every parameter of the model itself, adapters left out.
  virtual std::vector<std::pair<std::string, at::Tensor>> parameters()
      const = 0;
  /// The first owner of an adapted tensor in the model that `wanted` accepts.
  virtual std::shared_ptr<Owner> find_owner(
      const std::function<bool(const Owner&)>& wanted) const = 0;
  /// The model's identity, for telling models apart; never dereferenced.
  virtual const void* identity() const = 0;
  virtual std::string type() const = 0;
  /// The modules that adapters live in, when nobody else keeps them.
  virtual std::shared_ptr<torch::nn::Module> tree() const = 0;
  /// Called before the first adapter is put into the model.
  virtual void prepare() const = 0;
  /// Makes each run of a model that is run as a whole see one choice of
  /// adapters from its start to its end.
  virtual void pin_runs(
      const std::shared_ptr<const Activation>& activation) const = 0;
};

}  // namespace peft::detail
