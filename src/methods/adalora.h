// SPDX-License-Identifier: Apache-2.0
// AdaLoRA's entry in the method table; the mathematics stands in adalora.cpp,
// the ranks' schedule in rank_allocator.cpp.
#pragma once

#include "methods/method_table.h"

namespace peft {
struct AdaLoraConfig;
}

namespace peft::detail {

/// What config.rank_pattern says of one weight; nullptr: all ranks are there.
const std::vector<bool>* mask_of(
    const AdaLoraConfig& config,
    const std::string& file_prefix);

std::unique_ptr<const Method> make_adalora(
    const AdapterConfig& config,
    const WeightName& name);

/// Only the ranks that are left: where E is not zero by the config's mask.
/// init_r is the largest rank there; the others' masks say how many are left.
void adopt_adalora(
    AdapterConfig& config,
    const std::vector<StoredLayer>& layers);

Tensors written_adalora(
    const AdapterConfig& config,
    const WeightName& name,
    const Tensors& parameters);

bool adalora_loads_in_peft(
    const AdapterConfig& config,
    const std::string& layer_type);

std::unique_ptr<Schedule> make_rank_allocator(
    AdapterConfig& config,
    std::vector<ScheduledWeight> weights);

}  // namespace peft::detail
