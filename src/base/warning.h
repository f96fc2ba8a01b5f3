// SPDX-License-Identifier: Apache-2.0
// Sends one warning to the handler that peft::set_warning_handler chose.
#pragma once

#include <string>

namespace peft::detail {

void warn(const std::string& text);

}  // namespace peft::detail
