// SPDX-License-Identifier: Apache-2.0
// Files of torch.save written by hand: pickles from their opcodes, put into a
// zip by libtorch's own writer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <caffe2/serialize/inline_container.h>

namespace peft_test {

inline std::string little_endian(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) {
    text += static_cast<char>(value >> (8 * i) & 0xff);
  }
  return text;
}

namespace pickle {

inline std::string text(const std::string& value) {
  return "X" + little_endian(value.size(), 4) + value;
}

/// Any int64: LONG1.
inline std::string integer(std::int64_t value) {
  return "\x8a\x08" + little_endian(static_cast<std::uint64_t>(value), 8);
}

inline std::string tuple(const std::vector<std::string>& items) {
  std::string all = "(";
  for (const auto& item : items) {
    all += item;
  }
  return all + "t";
}

inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}

inline std::string integers(const std::vector<std::int64_t>& values) {
  std::vector<std::string> items;
  for (const auto value : values) {
    items.push_back(integer(value));
  }
  return tuple(items);
}

inline const std::string ordered_dict =
    global("collections", "OrderedDict") + ")R";

/// A tensor as torch.save of a dict writes it.
struct Tensor {
  std::string storage = "FloatStorage";
  std::string record = "0";
  std::int64_t length = 6;
  std::int64_t offset = 0;
  std::vector<std::int64_t> sizes = {2, 3};
  std::vector<std::int64_t> strides = {3, 1};

  std::string bytes() const {
    const std::string id = tuple(
        {text("storage"),
         global("torch", storage),
         text(record),
         text("cpu"),
         integer(length)});
    return global("torch._utils", "_rebuild_tensor_v2") +
        tuple(
               {id + "Q",
                integer(offset),
                integers(sizes),
                integers(strides),
                "\x89",
                ordered_dict}) +
        "R";
  }
};

inline std::string dict(const std::map<std::string, std::string>& items) {
  std::string all = "\x80\x02}(";
  for (const auto& [key, value] : items) {
    all += text(key) + value;
  }
  return all + "u.";
}

}  // namespace pickle

inline void write_torch_file(
    const std::filesystem::path& path,
    const std::string& pickle,
    const std::map<std::string, std::string>& storages) {
  caffe2::serialize::PyTorchStreamWriter writer(path.string());
  writer.writeRecord("data.pkl", pickle.data(), pickle.size());
  for (const auto& [name, bytes] : storages) {
    writer.writeRecord("data/" + name, bytes.data(), bytes.size());
  }
  writer.writeEndOfFile();
}

}  // namespace peft_test
