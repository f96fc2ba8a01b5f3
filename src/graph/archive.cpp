// SPDX-License-Identifier: Apache-2.0
#include "graph/archive.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include <caffe2/serialize/inline_container.h>

#include "base/open_file.h"
#include "base/text.h"
#include "peft/error.h"

namespace peft::graph {
namespace {

using detail::cannot_read;
using detail::concat;
using detail::MappedFile;

constexpr std::size_t most_text = std::size_t{1} << 30;
constexpr std::size_t alignment = 16;  // of the largest dtype
// In a record's own header: its length and where the method stands.
constexpr std::size_t header_size = 30;
constexpr std::size_t method_at = 8;

// What libtorch's zip reader reads from.
class MappedInput final : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit MappedInput(std::shared_ptr<MappedFile> file)
      : file_(std::move(file)) {}

  std::size_t size() const override { return file_->size(); }
  std::size_t read(uint64_t at, void* to, std::size_t n, const char*)
      const override {
    if (at > file_->size()) {
      return 0;
    }
    n = std::min<std::size_t>(n, file_->size() - at);
    std::memcpy(to, file_->data() + at, n);
    return n;
  }

 private:
  std::shared_ptr<MappedFile> file_;
};

[[noreturn]] void broken(
    const std::filesystem::path& path,
    const std::string& what) {
  throw Error(ErrorKind::file, concat(cannot_read(path), ": ", what));
}

}  // namespace

std::string first_line(const std::exception& error) {
  const std::string text = error.what();
  return text.substr(0, text.find('\n'));
}

Archive::Archive(const std::filesystem::path& path)
    : path_(path), file_(std::make_shared<MappedFile>(path)) {
  constexpr std::string_view not_one =
      " (a .pt2 is what torch.export.save writes)";
  try {
    reader_ = std::make_unique<caffe2::serialize::PyTorchStreamReader>(
        std::make_shared<MappedInput>(file_));
    records_ = reader_->getAllRecords();
  } catch (const c10::Error&) {  // whose text speaks of checkpoints
    broken(path, concat("not a sound and complete zip archive", not_one));
  }
  const std::unordered_set<std::string> names(records_.begin(), records_.end());
  if (names.size() != records_.size()) {
    broken(path, "it holds several records of one name");
  }
  if (!has("archive_format") || text("archive_format") != "pt2") {
    const bool script = has("constants.pkl") || has("data.pkl");
    broken(
        path,
        script ? std::string(
                     "this is a TorchScript or torch.save file; load it with "
                     "torch::jit::load, or export the model anew with "
                     "torch.export.save")
               : concat("not an exported program", not_one));
  }
}

Archive::~Archive() = default;

bool Archive::has(const std::string& record) const {
  return reader_->hasRecord(record);
}

Bytes Archive::mapped(const std::string& record, std::size_t size) const {
  const std::size_t header = reader_->getRecordHeaderOffset(record);
  const std::size_t begin = reader_->getRecordOffset(record);
  if (header > file_->size() || file_->size() - header < header_size ||
      begin > file_->size() || file_->size() - begin < size) {
    broken(path_, concat("record '", record, "' ends after the file"));
  }
  const char* method = file_->data() + header + method_at;
  char* data = file_->data() + begin;
  const bool stored = method[0] == 0 && method[1] == 0;
  if (!stored || reinterpret_cast<std::uintptr_t>(data) % alignment != 0) {
    return {};
  }
  return {data, size, file_};
}

Bytes Archive::bytes(const std::string& record) const {
  if (!has(record)) {
    broken(path_, concat("it has no record '", record, "'"));
  }
  try {
    const std::size_t size = reader_->getRecordSize(record);
    if (Bytes found = mapped(record, size); found.owner) {
      return found;
    }
    auto [data, unpacked] = reader_->getRecord(record);
    auto owner = std::make_shared<at::DataPtr>(std::move(data));
    return {static_cast<char*>(owner->get()), unpacked, owner};
  } catch (const c10::Error& error) {
    broken(path_, concat("record '", record, "': ", first_line(error)));
  }
}

std::string Archive::text(const std::string& record) const {
  if (has(record) && reader_->getRecordSize(record) > most_text) {
    broken(path_, concat("record '", record, "' is larger than 1 GiB"));
  }
  const Bytes found = bytes(record);
  return {found.data, found.size};
}

}  // namespace peft::graph
