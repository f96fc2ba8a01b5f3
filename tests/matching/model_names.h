// SPDX-License-Identifier: Apache-2.0
// Models as matching sees them: lists of names.
#pragma once

#include <string>
#include <vector>

#include "matching/target_matcher.h"

namespace peft_test {

inline peft::detail::ModuleName of_type(
    const std::string& type,
    const std::string& path,
    bool supported = true) {
  peft::detail::ModuleName module;
  module.path = path;
  module.type = type;
  module.supported = supported;
  module.linear = type == "Linear";
  return module;
}

inline peft::detail::ModuleName linear(const std::string& path) {
  return of_type("Linear", path);
}

/// The root, m.layers.{0,1}.{q,v} with their containers, m.norm and head.
inline std::vector<peft::detail::ModuleName> two_layers() {
  std::vector<peft::detail::ModuleName> modules = {
      of_type("Model", "", false),
      of_type("Backbone", "m", false),
      of_type("ModuleList", "m.layers", false)};
  for (const std::string layer : {"m.layers.0", "m.layers.1"}) {
    modules.push_back(of_type("Layer", layer, false));
    modules.push_back(linear(layer + ".q"));
    modules.push_back(linear(layer + ".v"));
  }
  modules.push_back(of_type("LayerNorm", "m.norm", false));
  modules.push_back(linear("head"));
  return modules;
}

}  // namespace peft_test
