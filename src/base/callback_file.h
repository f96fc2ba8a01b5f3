// SPDX-License-Identifier: Apache-2.0
// An AtomicFile for libraries that write through a callback which no exception
// may pass: a failure is kept and thrown when the library has returned. The
// library itself never hears of it, as libtorch's zip writer ends the program
// when it is destroyed after a failed write.
#pragma once

#include <cstddef>
#include <exception>
#include <filesystem>

#include "base/atomic_file.h"

namespace peft::detail {

class CallbackFile {
 public:
  explicit CallbackFile(const std::filesystem::path& path) : file_(path) {}

  /// What the library calls. Always answers `size`.
  std::size_t write(const void* data, std::size_t size) noexcept;

  /// Runs `work`, which lets the library write. Throws what write() met, or
  /// else what `work` throws.
  template <class Work>
  void guard(const Work& work) {
    try {
      work();
    } catch (...) {
      raise_if_failed();
      throw;
    }
    raise_if_failed();
  }

  void publish() { file_.publish(); }

 private:
  void raise_if_failed() const;

  AtomicFile file_;
  std::exception_ptr failure_;
};

}  // namespace peft::detail
