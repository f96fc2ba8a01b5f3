// SPDX-License-Identifier: Apache-2.0
// Layers of a program or script that look like one object, because they share
// all of their tensors, and that a file's keys tell apart.
#pragma once

#include <set>
#include <string>

#include "hosting/host.h"
#include "peft/state_dict.h"

namespace peft::detail {

/// The paths of layers that have tensors of their own in `weights` beside those
/// of another layer with which they share all of their weights. Throws Error
/// (state) when adapters that the model has already treat them as one.
std::set<std::string> told_apart(
    const Host& host,
    const StateDict& weights,
    const std::string& adapter);

/// Whether `weights` say the same of the layers at two file prefixes.
bool are_stored_alike(
    const StateDict& weights,
    const std::string& prefix,
    const std::string& other);

}  // namespace peft::detail
