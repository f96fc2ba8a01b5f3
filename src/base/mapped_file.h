// SPDX-License-Identifier: Apache-2.0
// A file in memory without reading it: pages are loaded when touched. The map
// is private: writing to it changes memory only, never the file. Replacing the
// file by another (as AtomicFile does) leaves the map as it was; shortening it
// in place under a map makes the system end the program on the next access,
// which no library can prevent.
#pragma once

#include <cstddef>
#include <filesystem>

namespace peft::detail {

class MappedFile {
 public:
  /// Throws Error (file) when `path` is missing, unreadable or not a file.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// nullptr for an empty file.
  char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace peft::detail
