// SPDX-License-Identifier: Apache-2.0
// What a config says about one module: adapted or not, and why. All compiled
// once for a config, then asked about every module of a model.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "matching/choice_matcher.h"
#include "matching/layer_index.h"
#include "matching/target_matcher.h"
#include "peft/adapter_config.h"
#include "peft/error.h"

namespace peft::detail {

/// A mistake found while matching, for Mistakes::add.
using Mistake = std::pair<ErrorKind, std::string>;

enum class Standing {
  selected,     // chosen, and can be adapted
  unsupported,  // chosen, but the method has no form for this kind
  excluded,     // by exclude_modules or modules_to_save
  other_layer,  // its name is chosen, its layer is not
  unmatched,
  inside_target,
};

struct Verdict {
  Standing standing;
  std::string reason;
};

class Selection {
 public:
  /// Adds to `mistakes` each part of the config that is no valid pattern; the
  /// selection must then not be asked anything.
  Selection(const AdapterConfig& config, std::vector<Mistake>& mistakes);

  Verdict judge(const ModuleName& module);

  /// target_modules is "dummy-target-modules": selects nothing, on purpose.
  bool is_dummy() const { return form_ == Form::dummy; }
  std::vector<std::string> unmet_targets() const { return targets_->unmet(); }
  std::vector<std::string> unmet_excludes() const { return excludes_->unmet(); }
  std::vector<std::string> unmet_saved() const { return saved_->unmet(); }
  /// What layers_to_transform did that may surprise.
  std::vector<std::string> notes() const;

 private:
  enum class Form { names_or_pattern, all_linear, dummy };

  std::optional<Verdict> judge_exclusion(const std::string& path);
  std::optional<Verdict> judge_target(const std::string& path, bool noting);
  Verdict judge_targets(const std::vector<std::string>& paths, bool noting);

  Form form_ = Form::names_or_pattern;
  std::optional<ChoiceMatcher> targets_;
  std::optional<ChoiceMatcher> excludes_;
  std::optional<ChoiceMatcher> saved_;
  LayerFilter layers_;
  std::vector<std::string> named_in_full_;
  std::vector<std::string> inner_index_;
};

}  // namespace peft::detail
