// SPDX-License-Identifier: Apache-2.0
// What a config would adapt in a model, and why not the rest: the answer of
// peft::match_report, and what injection itself acts on.
#pragma once

#include <string>
#include <vector>

#include "peft/export.h"

namespace peft {

struct PEFT_API MatchReport {
  struct Module {
    std::string path;    ///< "encoder.0.linear"
    std::string type;    ///< "Linear"
    bool adapted;        ///< true: would get an adapter
    std::string reason;  ///< why, or why not: "matches 'query'"
  };
  /// Every module of the model except its root, in the model's order; for
  /// target_parameters also the parameters named there.
  std::vector<Module> modules;

  /// Parts of the config that meet no module: probably typing errors.
  std::vector<std::string> unmatched_targets;
  std::vector<std::string> unmatched_excludes;
  std::vector<std::string> unmatched_modules_to_save;
  std::vector<std::string> unmatched_rank_patterns;
  std::vector<std::string> unmatched_alpha_patterns;
  /// Other things worth knowing: tied weights, ambiguous patterns.
  std::vector<std::string> notes;

  /// Paths of the modules that would be adapted.
  std::vector<std::string> adapted() const;
  /// One line for each of the unmatched parts and notes; empty when fine.
  std::vector<std::string> warnings() const;
  /// A table for people.
  std::string to_string() const;
};

}  // namespace peft
