// SPDX-License-Identifier: Apache-2.0
// Reads a model's state for reports; changes nothing.
#pragma once

#include "model/model_state.h"

namespace peft::detail {

std::vector<std::string> active_names(const ModelState& state);

}  // namespace peft::detail
