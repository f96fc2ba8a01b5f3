// SPDX-License-Identifier: Apache-2.0
// How errors about one adapter begin.
#pragma once

#include <string>

#include "base/text.h"

namespace peft::detail {

/// "[asking] adapter 'name'".
inline std::string about_adapter(const char* asking, const std::string& name) {
  return concat("[", asking, "] adapter '", name, "'");
}

}  // namespace peft::detail
