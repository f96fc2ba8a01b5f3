// SPDX-License-Identifier: Apache-2.0
// W' = a copy of W that is the adapter's own: of each tensor of a module in
// modules_to_save ("classifier.weight" in files), of a bias that is trained
// ("head.bias", or "query.base_layer.bias" where the layer is adapted), and of
// what files hold of the base itself ("embed_tokens.base_layer.weight").
#pragma once

#include <memory>

#include "methods/method.h"

namespace peft::detail {

/// `name` is the tensor's name in its layer; `like` gives the shape, which may
/// have more or fewer rows than the layer's own.
std::unique_ptr<const Method> make_saved_copy(
    const std::string& name,
    const at::Tensor& like,
    bool is_buffer);

std::unique_ptr<const Method> make_trained_bias(
    const std::string& file_name,
    const at::Tensor& like);

/// Never trained, as the base itself is not.
std::unique_ptr<const Method> make_own_base(
    const std::string& name,
    const std::string& file_name,
    const at::Tensor& like);

}  // namespace peft::detail
