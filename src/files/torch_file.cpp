// SPDX-License-Identifier: Apache-2.0
// A zip, written and read by libtorch's own zip code (since torch 1.6), of
//
//   data.pkl     the dict, as a pickle that names storages
//   data/<name>  the bytes of each storage
//   byteorder    "little" (of newer files)
//
// libtorch's own reader of the pickle (torch/csrc/jit/serialization/
// unpickler.h) believes what it says of sizes: so it is not used.
#include "files/torch_file.h"

#include <map>
#include <optional>

#include <ATen/ops/empty.h>
#include <caffe2/serialize/inline_container.h>

#include "base/mapped_file.h"
#include "base/mistakes.h"
#include "base/open_file.h"
#include "base/text.h"
#include "files/pickle_reader.h"

namespace peft::detail {
namespace {

using Reader = caffe2::serialize::PyTorchStreamReader;

constexpr std::size_t most_pickle_bytes = 100'000'000;

std::optional<at::ScalarType> dtype_called(const std::string& name) {
  static const std::map<std::string, at::ScalarType> types = {
      {"FloatStorage", at::kFloat},
      {"DoubleStorage", at::kDouble},
      {"HalfStorage", at::kHalf},
      {"BFloat16Storage", at::kBFloat16},
      {"LongStorage", at::kLong},
      {"IntStorage", at::kInt},
      {"ShortStorage", at::kShort},
      {"CharStorage", at::kChar},
      {"ByteStorage", at::kByte},
      {"BoolStorage", at::kBool},
      {"ComplexFloatStorage", at::kComplexFloat},
      {"ComplexDoubleStorage", at::kComplexDouble},
      {"float8_e4m3fn", at::kFloat8_e4m3fn},
      {"float8_e5m2", at::kFloat8_e5m2},
      {"float8_e4m3fnuz", at::kFloat8_e4m3fnuz},
      {"float8_e5m2fnuz", at::kFloat8_e5m2fnuz},
      {"uint16", at::kUInt16},
      {"uint32", at::kUInt32},
      {"uint64", at::kUInt64}};
  const auto found = types.find(name);
  return found == types.end() ? std::nullopt : std::optional(found->second);
}

// Why the tensor is no window of a storage of `elements`, or "".
std::string why_outside(const PickledTensor& tensor, std::int64_t elements) {
  if (tensor.sizes.size() != tensor.strides.size()) {
    return "it has not one stride for each size";
  }
  std::int64_t count = 1;
  std::int64_t last = tensor.offset;
  bool too_large = tensor.offset < 0;
  bool empty = false;
  for (std::size_t i = 0; i < tensor.sizes.size(); ++i) {
    const std::int64_t size = tensor.sizes[i];
    const std::int64_t stride = tensor.strides[i];
    std::int64_t step = 0;
    if (size < 0 || stride < 0) {
      return "it has a negative size or stride";
    }
    empty |= size == 0;
    // Sizes of 0 count as 1: strides overflow even in an empty tensor.
    too_large |=
        __builtin_mul_overflow(count, std::max<std::int64_t>(size, 1), &count);
    too_large |= __builtin_mul_overflow(
        std::max<std::int64_t>(size - 1, 0), stride, &step);
    too_large |= __builtin_add_overflow(last, step, &last);
  }
  if (too_large || (!empty && (last >= elements || count > elements))) {
    return concat(
        "its sizes, strides and offset lead outside its storage of ",
        elements,
        " elements");
  }
  return "";
}

class TorchFile {
 public:
  TorchFile(const std::filesystem::path& path, std::size_t size)
      : path_(path),
        size_(size),
        mistakes_(ErrorKind::file, cannot_read(path)),
        reader_(path.string()) {}

  StateDict read() {
    if (reader_.hasRecord("byteorder") && text("byteorder") != "little") {
      mistakes_.add("it was written on a big-endian machine");
      mistakes_.raise_if_any();
    }
    const std::string pickle = text("data.pkl");
    const auto declared = read_pickled_tensors(pickle, cannot_read(path_));
    for (const PickledTensor& tensor : declared) {
      check(tensor);
    }
    mistakes_.raise_if_any();
    StateDict tensors;
    tensors.reserve(declared.size());
    for (const PickledTensor& tensor : declared) {
      tensors.insert(tensor.name, made(tensor));
    }
    return tensors;
  }

 private:
  // torch.save packs nothing and writes every record once: records that say
  // to be larger than their file, alone or together, would be a bomb.
  std::size_t size_of(const std::string& record) {
    const auto [known, is_new] = sizes_.try_emplace(record, 0);
    if (is_new) {
      known->second = reader_.getRecordSize(record);
      if (known->second > size_ - total_) {
        throw Error(
            ErrorKind::file,
            concat(
                cannot_read(path_),
                ": its records, up to '",
                record,
                "', say to be larger than the file"));
      }
      total_ += known->second;
    }
    return known->second;
  }

  std::string text(const std::string& record) {
    if (size_of(record) > most_pickle_bytes) {
      throw Error(
          ErrorKind::file,
          concat(
              cannot_read(path_), ": its record '", record, "' is too large"));
    }
    const auto [data, size] = reader_.getRecord(record);
    return {static_cast<const char*>(data.get()), size};
  }

  void check(const PickledTensor& tensor) {
    const auto bad = [&](const std::string& why) {
      mistakes_.add(concat("tensor '", tensor.name, "': ", why));
    };
    const auto dtype = dtype_called(tensor.dtype);
    if (!dtype) {
      return bad(concat("its dtype ", tensor.dtype, " is not read here"));
    }
    const std::string record = record_of(tensor);
    if (!reader_.hasRecord(record)) {
      return bad(concat("its record '", record, "' is missing"));
    }
    const auto item = static_cast<std::int64_t>(c10::elementSize(*dtype));
    const auto held = static_cast<std::int64_t>(size_of(record));
    std::int64_t bytes = tensor.length;
    const bool overflows =
        !tensor.in_bytes && __builtin_mul_overflow(tensor.length, item, &bytes);
    if (overflows || bytes != held) {
      return bad(concat(
          "its storage has ",
          tensor.length,
          tensor.in_bytes ? " bytes" : " elements",
          " of ",
          tensor.dtype,
          ", its record '",
          record,
          "' holds ",
          held,
          " bytes"));
    }
    if (const auto why = why_outside(tensor, held / item); !why.empty()) {
      bad(why);
    }
  }

  at::Tensor made(const PickledTensor& tensor) {
    const std::string record = record_of(tensor);
    auto found = storages_.find(record);
    if (found == storages_.end()) {
      auto [data, size] = reader_.getRecord(record);
      found = storages_
                  .emplace(
                      record,
                      at::Storage(
                          at::Storage::use_byte_size_t(),
                          static_cast<std::int64_t>(size),
                          std::move(data)))
                  .first;
    }
    at::Tensor made = at::empty({0}, *dtype_called(tensor.dtype));
    made.set_(found->second, tensor.offset, tensor.sizes, tensor.strides);
    return made;
  }

  static std::string record_of(const PickledTensor& tensor) {
    return "data/" + tensor.storage;
  }

  std::filesystem::path path_;
  std::size_t size_;
  Mistakes mistakes_;
  Reader reader_;
  std::map<std::string, std::size_t> sizes_;  // by record
  std::size_t total_ = 0;                     // of them
  std::map<std::string, at::Storage> storages_;
};

// Throws where the file is not a zip.
void check_is_zip(std::string_view file, const std::filesystem::path& path) {
  constexpr std::string_view zip = "PK\x03\x04";
  // The pickle of a magic number, with which the format before zips begins.
  constexpr std::string_view legacy = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9";
  constexpr std::size_t tar_mark = 257;  // where a tar says that it is one
  if (file.starts_with(zip)) {
    return;
  }
  const bool is_older = file.starts_with(legacy) ||
      (file.size() > tar_mark && file.substr(tar_mark).starts_with("ustar"));
  throw Error(
      is_older ? ErrorKind::unsupported : ErrorKind::file,
      concat(
          cannot_read(path),
          is_older
              ? ": it is in the format of torch before 1.6; load it in Python "
                "and save it again with torch.save, or with "
                "safe_serialization=True"
              : ": it is not a file of torch.save (is the download "
                "complete?)"));
}

}  // namespace

StateDict load_torch_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  check_is_zip({file.data(), file.size()}, path);
  try {
    return TorchFile(path, file.size()).read();
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    throw Error(
        ErrorKind::file,
        concat(
            cannot_read(path),
            ": not a sound and complete file of torch.save: ",
            text.substr(0, text.find('\n'))));
  }
}

}  // namespace peft::detail
