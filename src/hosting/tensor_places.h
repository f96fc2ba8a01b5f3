// SPDX-License-Identifier: Apache-2.0
// The places that layers of torch::nn, programs and scripts read tensors from.
#pragma once

#include <memory>

#include "hosting/host.h"
#include "hosting/layer_kinds.h"

namespace peft::detail {

/// A member of a layer object that others may drop at any time.
std::shared_ptr<TensorPlace> place_of_member(
    const std::shared_ptr<torch::nn::Module>& layer,
    const TensorMember& member);

/// The places of one tensor that a model reads under several names.
std::shared_ptr<TensorPlace> places_together(
    std::shared_ptr<TensorPlace> first,
    std::shared_ptr<TensorPlace> rest);

}  // namespace peft::detail
