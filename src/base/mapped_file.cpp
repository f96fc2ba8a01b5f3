// SPDX-License-Identifier: Apache-2.0
#include "base/mapped_file.h"

#include <sys/mman.h>

#include <cerrno>

#include "base/open_file.h"

namespace peft::detail {

MappedFile::MappedFile(const std::filesystem::path& path) {
  const Descriptor file(open_for_reading(path, size_));
  if (size_ == 0) {
    return;  // mmap refuses empty maps
  }
  // MAP_NORESERVE: a map of a file larger than memory is fine while few of its
  // pages are written to.
  void* map = ::mmap(
      nullptr,
      size_,
      PROT_READ | PROT_WRITE,
      MAP_PRIVATE | MAP_NORESERVE,
      file.number(),
      0);
  if (map == MAP_FAILED) {
    raise_file_error(cannot_read(path), errno);
  }
  data_ = static_cast<char*>(map);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    ::munmap(data_, size_);
  }
}

}  // namespace peft::detail
