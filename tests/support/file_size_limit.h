// SPDX-License-Identifier: Apache-2.0
// Stands for a full disk: while it lives, no file of this process can grow
// beyond a size (write() fails with EFBIG, the signal for it is ignored).
#pragma once

#include <signal.h>
#include <sys/resource.h>

namespace peft_test {

class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : old_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &limit_);
    const struct rlimit limit = {bytes, limit_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &limit_);
    ::signal(SIGXFSZ, old_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  void (*old_)(int);
  struct rlimit limit_ = {};
};

}  // namespace peft_test
