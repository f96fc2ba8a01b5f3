// SPDX-License-Identifier: Apache-2.0
// A .pt2 archive: a zip of named records. Records are found and unpacked by
// libtorch's own reader; those stored as they are (as torch.export.save writes
// them) can be used in the mapped file without a copy. Nothing that the file
// says of its sizes and offsets is believed unchecked.
//
// Source: caffe2/serialize/inline_container.h; names of the records:
// torch/csrc/export/pt2_archive_constants.h.
#pragma once

#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"

namespace caffe2::serialize {
class PyTorchStreamReader;
}

namespace peft::graph {

/// libtorch's own text of an error, without the C++ stack below it.
std::string first_line(const std::exception& error);

/// Bytes that stay where they are as long as `owner` lives.
struct Bytes {
  char* data = nullptr;
  std::size_t size = 0;
  std::shared_ptr<void> owner;
};

class Archive {
 public:
  /// Throws Error (file) for anything that is not a sound .pt2 archive.
  explicit Archive(const std::filesystem::path& path);
  ~Archive();
  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// The names of all records.
  const std::vector<std::string>& records() const { return records_; }
  bool has(const std::string& record) const;
  /// A record in the mapped file, or unpacked when it is compressed or not
  /// aligned for 16-byte elements. Throws Error (file).
  Bytes bytes(const std::string& record) const;
  /// A record of text, at most 1 GiB. Throws Error (file).
  std::string text(const std::string& record) const;

 private:
  Bytes mapped(const std::string& record, std::size_t size) const;

  std::filesystem::path path_;
  std::shared_ptr<detail::MappedFile> file_;
  std::unique_ptr<caffe2::serialize::PyTorchStreamReader> reader_;
  std::vector<std::string> records_;
};

}  // namespace peft::graph
