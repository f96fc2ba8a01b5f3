// SPDX-License-Identifier: Apache-2.0
// modules_to_save: W' = a trained copy of W. Each tensor of the module has
// one; in files it stands under the module's own name: "classifier.weight".
#pragma once

#include <memory>

#include "methods/method.h"

namespace peft::detail {

/// `name` is the tensor's name in its layer; `like` gives the shape.
std::unique_ptr<const Method> make_saved_copy(
    const std::string& name,
    const at::Tensor& like,
    bool is_buffer);

}  // namespace peft::detail
