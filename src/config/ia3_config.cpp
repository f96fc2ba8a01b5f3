// SPDX-License-Identifier: Apache-2.0
// IA3Config's fields and what can be said of their values without a model.
#include "peft/ia3_config.h"

#include <algorithm>

#include "base/mistakes.h"
#include "base/text.h"

namespace peft {

std::unique_ptr<AdapterConfig> IA3Config::clone() const {
  return std::make_unique<IA3Config>(*this);
}

void IA3Config::visit(FieldVisitor& visitor) {
  AdapterConfig::visit(visitor);
  visitor.field("feedforward_modules", feedforward_modules);
  visitor.field("fan_in_fan_out", fan_in_fan_out);
  visitor.field("init_ia3_weights", init_ia3_weights);
}

void IA3Config::check(detail::Mistakes& mistakes) const {
  AdapterConfig::check(mistakes);
  if (feedforward_modules.is_none()) {
    mistakes.add(
        ErrorKind::config,
        "feedforward_modules is not set: name the modules whose inputs are to "
        "be scaled, or set it to an empty list when there are none");
    return;
  }
  if (!feedforward_modules.is_list() || !target_modules.is_list()) {
    return;
  }
  std::vector<std::string> strangers;
  const auto& targets = target_modules.names();
  for (const auto& name : feedforward_modules.names()) {
    if (std::find(targets.begin(), targets.end(), name) == targets.end()) {
      strangers.push_back(name);
    }
  }
  if (!strangers.empty()) {
    mistakes.add(
        ErrorKind::config,
        detail::concat(
            "feedforward_modules has ",
            detail::list_names(strangers),
            ", which target_modules has not; every feed-forward module must "
            "be a target"));
  }
}

}  // namespace peft
