// SPDX-License-Identifier: Apache-2.0
// Writes a file so that a crash or a full disk at any moment leaves the old
// one or the new one, whole: a new file in the same folder, flushed to disk,
// renamed over the old one, the folder flushed. Nothing is left behind when
// writing fails or is given up.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace peft::detail {

class AtomicFile {
 public:
  /// Creates the new file beside `path`. Throws Error (file).
  explicit AtomicFile(std::filesystem::path path);
  /// Removes the new file unless publish() was reached.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t size);
  /// Flushes the bytes to disk; afterwards only publish() is left to do.
  void flush();
  /// Renames the new file over `path` (flushing first if need be).
  void publish();

 private:
  [[noreturn]] void fail(const std::string& doing) const;

  std::filesystem::path path_;
  std::filesystem::path new_path_;
  int descriptor_ = -1;
};

/// The whole of a small text file. Throws Error (file).
std::string read_text_file(const std::filesystem::path& path);

}  // namespace peft::detail
