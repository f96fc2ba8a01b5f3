// SPDX-License-Identifier: Apache-2.0
// IA3's entry in the method table; the mathematics stands in ia3.cpp.
#pragma once

#include "methods/method_table.h"

namespace peft::detail {

std::unique_ptr<const Method> make_ia3(
    const AdapterConfig& config,
    const WeightName& name);

/// Feed-forward are the layers whose vector has the length of their inputs and,
/// where both lengths are equal, those that the config says.
void adopt_ia3(AdapterConfig& config, const std::vector<StoredLayer>& layers);

void fit_ia3(
    AdapterConfig& config,
    const WeightName& name,
    const WeightLayout& layout,
    const StoredShapes& shapes);

bool ia3_loads_in_peft(
    const AdapterConfig& config,
    const std::string& layer_type);

}  // namespace peft::detail
