// SPDX-License-Identifier: Apache-2.0
// The tree of a TorchScript module's weights: a torch::nn::Module for each of
// its modules, with its parameters and buffers under their names. TorchScript
// modules share their types, so nothing is added to them; adapters live here,
// and the tensors are swapped where the script reads them, in its objects.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <ATen/core/ivalue.h>
#include <torch/nn/module.h>

#include "hosting/layer_kinds.h"

namespace torch::jit {
struct Module;
}

namespace peft::detail {

class ScriptLayer final : public torch::nn::Module {
 public:
  struct Member {
    std::string name;
    std::size_t slot;
    bool is_buffer;
  };
  using Object = c10::intrusive_ptr<c10::ivalue::Object>;

  explicit ScriptLayer(const Object& object);

  /// The Python class: "Linear".
  const std::string& type() const { return name(); }
  const std::vector<Member>& members() const { return members_; }
  /// The script's own object; null when it is gone. Only asked of a layer with
  /// adapters, or while the caller holds the script.
  Object object() const;
  /// `adapted` now stands in the object, and goes with it.
  void watch(const at::Tensor& adapted);
  /// What train() and eval() of the script module say.
  bool in_training() const;

 private:
  using WeakTensor =
      c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

  /// Not owned: the tensors in the object keep this tree alive. Not even held
  /// weakly, which would keep the object's tensors from being released; those
  /// tensors tell whether it lives.
  c10::ivalue::Object* object_;
  std::vector<WeakTensor> watched_;
  std::vector<Member> members_;
};

/// The place of a tensor in a script's object.
at::Tensor& tensor_in(const ScriptLayer::Object& object, std::size_t slot);

/// The tree of `module`: the one that its adapters live in, or a new one.
/// Throws Error (unsupported) for a frozen module.
std::shared_ptr<ScriptLayer> script_tree(const torch::jit::Module& module);

/// nullptr for a module that is not part of such a tree.
const ScriptLayer* as_script_layer(const torch::nn::Module& module);

KnownLayer know_script_layer(const ScriptLayer& layer);

/// Makes the methods of all modules in the tree run plainly: TorchScript's own
/// autodiff gives no gradient to tensors that it does not know to be trained.
void run_plainly(const ScriptLayer& root);

}  // namespace peft::detail
