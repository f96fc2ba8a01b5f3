// SPDX-License-Identifier: Apache-2.0
// LoRA's entry in the method table; the mathematics stands in lora.cpp.
#pragma once

#include "methods/method_table.h"

namespace peft::detail {

std::unique_ptr<const Method> make_lora(
    const AdapterConfig& config,
    const WeightName& name);

void fit_lora(
    AdapterConfig& config,
    const WeightName& name,
    const WeightLayout& layout,
    const StoredShapes& shapes);

void adopt_lora(AdapterConfig& config, const std::vector<StoredLayer>& layers);

const char* lora_data_pass(const AdapterConfig& config);
void adopt_lora_data(
    AdapterConfig& config,
    const std::vector<LayerData>& layers);
bool lora_needs_plain_files(const AdapterConfig& config);

void settle_lora(AdapterConfig& config, const std::vector<std::string>& paths);

void make_plain_lora(AdapterConfig& config);

/// s (B A - B0 A0) as one product of twice the rank.
Tensors plain_lora(
    const AdapterConfig& config,
    const WeightName& name,
    const Tensors& parameters);

/// lora_embedding_A [r, rows] and lora_embedding_B [features, r] as lora_B and
/// lora_A of a head.
NamedTensors lora_as_head(const Tensors& factors);

bool lora_loads_in_peft(
    const AdapterConfig& config,
    const std::string& layer_type);

}  // namespace peft::detail
