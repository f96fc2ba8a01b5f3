// SPDX-License-Identifier: Apache-2.0
// Opens regular files for reading, and words what the system says about files
// as peft::Error (file): the path, the reason, what to do.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace peft::detail {

/// A descriptor that is closed with its owner.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int number() const { return number_; }

 private:
  int number_;
};

/// Opens `path` for reading and sets `size`. Throws Error (file) when it is
/// missing, not permitted, or anything but a regular file.
int open_for_reading(const std::filesystem::path& path, size_t& size);

/// Throws Error (file): "<heading>: <reason> (<hint>)", where the reason and
/// the hint come from `error_number`, a value of errno.
[[noreturn]] void raise_file_error(
    const std::string& heading,
    int error_number);

/// "cannot read 'x'".
std::string cannot_read(const std::filesystem::path& path);

}  // namespace peft::detail
