// SPDX-License-Identifier: Apache-2.0
#include "base/callback_file.h"

namespace peft::detail {

std::size_t CallbackFile::write(const void* data, std::size_t size) noexcept {
  if (failure_) {
    return 0;
  }
  try {
    file_.write(data, size);
    return size;
  } catch (...) {
    failure_ = std::current_exception();
    return 0;
  }
}

void CallbackFile::raise_if_failed() const {
  if (failure_) {
    std::rethrow_exception(failure_);
  }
}

}  // namespace peft::detail
