// SPDX-License-Identifier: Apache-2.0
// The submodules that show an adapter in the module tree, as in PEFT:
// lora_dropout, lora_A and lora_B below the adapted layer, each a ModuleDict
// by adapter name. Printing, parameters(), train(), to() and archives find
// them as any other module; forward reads their tensors.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include "hosting/adapted_weight.h"
#include "hosting/owner.h"
#include "methods/method.h"

namespace torch::nn {
class DropoutImpl;
}

namespace peft::detail {

/// Where one adapter's modules of one weight are registered: on `layer`, or
/// below it under `holders` ("base_layer"), which are made as needed.
struct Seat {
  std::shared_ptr<torch::nn::Module> layer;
  std::vector<std::string> holders;
};

/// One stored tensor with the module that carries it, not yet registered.
struct SeatedTensor {
  ParameterSpec spec;
  at::Tensor tensor;
  std::shared_ptr<torch::nn::Module> carrier;  // none: a bare parameter
};

/// Makes the carrier for `value`; the result's tensor is what is to be used.
SeatedTensor make_seated(const ParameterSpec& spec, const at::Tensor& value);

/// A dropout module when p > 0 (an Identity is registered otherwise).
std::shared_ptr<torch::nn::DropoutImpl> make_dropout(double p);

/// What register_adapter puts in the tree.
struct SeatedAdapter {
  std::vector<SeatedTensor> tensors;
  std::string dropout_dict;  // "" : the method has no dropout
  std::shared_ptr<torch::nn::DropoutImpl> dropout;
};

/// A name that is taken by a module of the model itself, or "".
std::string taken_name(const Seat& seat, const SeatedAdapter& adapter);

/// Registers everything under `name`. New modules take the layer's train/eval
/// mode. `weight` is told of dtype changes that come through the tree, and
/// `owner` is found by them: see owner_of.
void register_adapter(
    const Seat& seat,
    const std::string& name,
    const SeatedAdapter& adapter,
    const std::shared_ptr<AdaptedWeight>& weight,
    const std::shared_ptr<Owner>& owner);

/// Tells one more weight of dtype changes: the bias that goes with the first.
void follow_dtype(
    const Seat& seat,
    const SeatedAdapter& adapter,
    const std::shared_ptr<AdaptedWeight>& weight);

/// Takes the containers' entries of one weight out again.
void unregister_target(
    const Seat& seat,
    const std::string& name,
    const std::string& dropout_dict,
    const std::vector<ParameterSpec>& specs);

/// Takes everything of adapter `name` out again, and containers left empty.
void unregister_adapter(const Seat& seat, const std::string& name);

/// True for the containers this file makes: no part of the model itself.
bool is_adapter_module(const torch::nn::Module& module);

/// Whom the adapters in such a container belong to, whatever stands in their
/// layer's weight now; nullptr for other modules.
std::shared_ptr<Owner> owner_of(const torch::nn::Module& module);

/// While it lives, this thread may move recurrent layers with adapters: whoever
/// makes it takes their adapted tensors out before and puts them back after.
class MovesRecurrentLayers {
 public:
  MovesRecurrentLayers();
  ~MovesRecurrentLayers();
  MovesRecurrentLayers(const MovesRecurrentLayers&) = delete;
  MovesRecurrentLayers& operator=(const MovesRecurrentLayers&) = delete;
};

}  // namespace peft::detail
