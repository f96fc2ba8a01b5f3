// SPDX-License-Identifier: Apache-2.0
// Decides which modules of a model a config selects. Works on names alone:
// it knows neither tensors nor layers. Rules: Python PEFT's, as described in
// docs/targets.md.
#pragma once

#include <string>
#include <vector>

#include "peft/adapter_config.h"
#include "peft/match_report.h"

namespace peft::detail {

/// One module of a model, as much as choosing targets needs to know.
struct ModuleName {
  std::string path;                 // "" for the root, which is never chosen
  std::vector<std::string> others;  // further paths of the same object
  std::string type;                 // "Linear", for messages
  bool supported = false;           // the method can adapt this kind
  bool linear = false;              // counted by "all-linear"
  bool inside_target = false;       // strictly inside a layer that has adapters
  /// Why it is not supported, where no registration of its class could help.
  std::string obstacle = {};
};

/// Fills a report for `modules`. Throws Error listing every mistake when no
/// module is selected (PEFT's four cases), when a selected module is not
/// `supported`, or when a pattern is no valid regex; with `throwing` false the
/// same texts are put in front of the report's notes instead.
///
/// A config with target_parameters may select no module: that is no error
/// here, since parameters are matched elsewhere. Keys of its rank_pattern and
/// alpha_pattern that are meant for parameters are reported as unmatched.
MatchReport match_targets(
    const AdapterConfig& config,
    const std::vector<ModuleName>& modules,
    bool throwing = true);

/// The names of `modules` (paths and their other paths) chosen by
/// config.modules_to_save: equal to an entry or ending with "." + entry.
std::vector<std::string> match_modules_to_save(
    const AdapterConfig& config,
    const std::vector<ModuleName>& modules);

}  // namespace peft::detail
