// SPDX-License-Identifier: Apache-2.0
// What add_weighted_adapter was asked for, checked.
#pragma once

#include <string>
#include <vector>

#include "methods/factor_combination.h"
#include "model/model_state.h"
#include "peft/combine.h"

namespace peft::detail {

// One adapter among those that are combined.
struct Source {
  const AdapterRecord* record;
  double weight;
};

/// Its rank is not set yet.
Combination combination_of(const CombineOptions& options, Mistakes& mistakes);

/// The adapters with their weights, values in memory.
std::vector<Source> find_sources(
    ModelState& state,
    const std::vector<std::string>& names,
    const std::vector<double>& weights,
    Mistakes& mistakes);

/// Adds a mistake for methods that differ or have no combination.
void check_kinds(const std::vector<Source>& sources, Mistakes& mistakes);

/// Adds a mistake for parts of adapters that no weighted sum combines.
void check_parts(
    const std::vector<Source>& sources,
    const char* asking,
    Mistakes& mistakes);

}  // namespace peft::detail
