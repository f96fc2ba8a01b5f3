// SPDX-License-Identifier: Apache-2.0
// A host's layers as names for matching.
#pragma once

#include <vector>

#include "hosting/host.h"
#include "matching/target_matcher.h"

namespace peft::detail {

/// One name a layer, and one for each bare parameter, which is a target by its
/// own path too ("experts.w1").
std::vector<ModuleName> layer_names(const std::vector<HostedLayer>& layers);

/// Whether the layer is a program's or a script's, of whose class C++ knows
/// nothing: registering one would not help it.
bool is_foreign(const HostedLayer& layer);

/// Whether the layer computes this weight in each run of the program that it is
/// a part of: see hosting/program_layers.h.
bool is_computed(const HostedLayer& layer, const HostedTensor& tensor);

/// One tensor of one layer, both by index.
struct TensorChoice {
  std::size_t layer;
  std::size_t tensor;
};

struct ChosenWeight {
  TensorChoice weight;
  /// The layer that brought it along (out_proj), or npos.
  std::size_t through = static_cast<std::size_t>(-1);
  /// Chosen by target_parameters.
  bool as_parameter = false;
};

/// The weights that `report` and config.target_parameters choose, each once,
/// in the model's order; a MultiheadAttention brings its out_proj along.
/// Entries of target_parameters without a match are noted in the report.
std::vector<ChosenWeight> choose_weights(
    const AdapterConfig& config,
    const std::vector<HostedLayer>& layers,
    MatchReport& report);

/// Why target_parameters that say `name` meet nothing, as the end of a
/// sentence; "" when no parameter is called so.
std::string why_no_parameter(
    const std::vector<HostedLayer>& layers,
    const std::string& name);

}  // namespace peft::detail
