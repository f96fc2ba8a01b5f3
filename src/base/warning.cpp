// SPDX-License-Identifier: Apache-2.0
#include "base/warning.h"

#include <iostream>
#include <mutex>

#include "peft/error.h"

namespace peft {
namespace {

std::mutex handler_mutex;
WarningHandler& current_handler() {
  static WarningHandler handler;
  return handler;
}

}  // namespace

WarningHandler set_warning_handler(WarningHandler handler) {
  const std::lock_guard lock(handler_mutex);
  std::swap(current_handler(), handler);
  return handler;
}

void detail::warn(const std::string& text) {
  WarningHandler handler;
  {
    const std::lock_guard lock(handler_mutex);
    handler = current_handler();
  }
  if (handler) {
    handler(text);
  } else {
    std::cerr << "peft: warning: " << text << std::endl;
  }
}

}  // namespace peft
