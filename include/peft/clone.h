// SPDX-License-Identifier: Apache-2.0
// Deep copies of adapted models.
#pragma once

#include <memory>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include "peft/export.h"

namespace peft {

/// A deep copy of `model` with copies of all its adapters: names, weights,
/// requires_grad, scales, active set. Module::clone() refuses adapted models
/// (it finds more child modules than reset() makes). The classes must be
/// torch::nn::Cloneable, as for clone() itself.
///
/// Attached adapters (peft/attach.h) are loaded ones in the copy.
///
/// `model` must not be used by other threads meanwhile. Throws Error, or what
/// clone() throws; `model` is then as it was.
PEFT_API std::shared_ptr<torch::nn::Module> clone_module(
    torch::nn::Module& model);

/// Gives `fresh`, a newly constructed model of the same structure as `model`,
/// copies of its weights, buffers and adapters: for classes that are not
/// Cloneable. Throws Error (shape) naming what does not fit.
PEFT_API void copy_into(torch::nn::Module& model, torch::nn::Module& fresh);

/// clone_module for a module held by shared_ptr.
template <class Model>
std::shared_ptr<Model> clone(const std::shared_ptr<Model>& model) {
  return std::dynamic_pointer_cast<Model>(clone_module(*model));
}

/// clone_module for a holder: `MyModel copy = peft::clone(model);`
template <
    class Holder,
    class = typename Holder::ContainedType,
    class = std::enable_if_t<std::is_base_of_v<
        torch::nn::ModuleHolder<typename Holder::ContainedType>,
        Holder>>>
Holder clone(const Holder& model) {
  return Holder(clone(model.ptr()));
}

}  // namespace peft
