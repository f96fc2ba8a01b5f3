// SPDX-License-Identifier: Apache-2.0
#include "base/callback_file.h"

namespace peft::detail {

std::size_t CallbackFile::write(const void* data, std::size_t size) noexcept {
  try {
    if (!failure_) {
      file_.write(data, size);
    }
  } catch (...) {
    failure_ = std::current_exception();
  }
  return size;
}

void CallbackFile::raise_if_failed() const {
  if (failure_) {
    std::rethrow_exception(failure_);
  }
}

}  // namespace peft::detail
