// SPDX-License-Identifier: Apache-2.0
// LoRA's entry in the method table; the mathematics stands in lora.cpp.
#pragma once

#include "methods/method_table.h"

namespace peft::detail {

std::unique_ptr<const Method> make_lora(
    const AdapterConfig& config,
    const std::string& path);

void fit_lora(
    AdapterConfig& config,
    const std::string& path,
    const WeightLayout& layout,
    const StoredShapes& shapes);

void settle_lora(AdapterConfig& config, const std::vector<std::string>& paths);

}  // namespace peft::detail
