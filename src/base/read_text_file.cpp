// SPDX-License-Identifier: Apache-2.0
// Reads a small text file whole; declared in base/atomic_file.h.
#include <unistd.h>

#include <cerrno>

#include "base/atomic_file.h"
#include "base/mistakes.h"
#include "base/open_file.h"
#include "base/text.h"

namespace peft::detail {

std::string read_text_file(const std::filesystem::path& path) {
  constexpr size_t most = 100'000'000;
  size_t size = 0;
  const Descriptor file(open_for_reading(path, size));
  std::string text;
  char chunk[1 << 14];
  while (true) {
    const ssize_t count = ::read(file.number(), chunk, sizeof(chunk));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      raise_file_error(cannot_read(path), errno);
    }
    if (count == 0) {
      return text;
    }
    text.append(chunk, static_cast<size_t>(count));
    if (text.size() > most) {
      throw Error(
          ErrorKind::file,
          concat(
              cannot_read(path),
              ": it is larger than 100 MB, too large for a text file of"
              " an adapter (is this the right file?)"));
    }
  }
}

}  // namespace peft::detail
