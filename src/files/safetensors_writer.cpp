// SPDX-License-Identifier: Apache-2.0
// save_safetensors: the bytes that safetensors.torch.save_file writes, one
// tensor in memory at a time.
#include <algorithm>
#include <tuple>

#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/mistakes.h"
#include "base/text.h"
#include "files/safetensors_header.h"
#include "files/safetensors_json.h"
#include "files/tensor_dtypes.h"
#include "peft/safetensors.h"

namespace peft {
namespace {

using detail::concat;
using detail::quote;

struct Output {
  const std::string* name;
  const at::Tensor* tensor;
  const detail::SafetensorsDtype* dtype;
};

// What keeps `tensor` from being written, or "".
std::string find_fault(const std::string& name, const at::Tensor& tensor) {
  if (name == "__metadata__") {
    return "bears the name of the header's metadata (rename it)";
  }
  if (!tensor.defined()) {
    return "is undefined";
  }
  if (tensor.layout() != at::kStrided || tensor.is_nested()) {
    return concat(
        "has layout ", tensor.layout(), ", not dense (call to_dense() first)");
  }
  if (tensor.is_meta()) {
    return "is on the meta device and has no values";
  }
  const auto* dtype = detail::to_safetensors_dtype(tensor.scalar_type());
  if (dtype == nullptr) {
    return concat(
        "has dtype ",
        c10::toString(tensor.scalar_type()),
        ", which safetensors does not have (supported are ",
        detail::supported_dtype_names(),
        ")");
  }
  if (dtype->bits < 8 && tensor.dim() == 0) {
    return concat("has dtype ", dtype->name, " and no dimension to pack");
  }
  return "";
}

// `text` as JSON, or nullopt when it is not valid UTF-8.
std::optional<std::string> to_json(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::type_error&) {
    return std::nullopt;
  }
}

// Sorted as the format wants it.
std::vector<Output> make_outputs(
    const StateDict& tensors,
    detail::Mistakes& mistakes) {
  std::vector<Output> outputs;
  for (const auto& item : tensors) {
    const std::string fault = find_fault(item.key(), item.value());
    if (!fault.empty()) {
      mistakes.add(concat("tensor ", quote(item.key()), " ", fault));
      continue;
    }
    if (!to_json(item.key())) {
      mistakes.add(
          concat("the name of tensor ", quote(item.key()), " is not UTF-8"));
      continue;
    }
    const auto type = item.value().scalar_type();
    outputs.push_back(
        {&item.key(), &item.value(), detail::to_safetensors_dtype(type)});
  }
  std::sort(
      outputs.begin(), outputs.end(), [](const Output& a, const Output& b) {
        return std::tie(b.dtype->rank, *a.name) <
            std::tie(a.dtype->rank, *b.name);
      });
  return outputs;
}

std::string metadata_json(
    const std::map<std::string, std::string>& metadata,
    detail::Mistakes& mistakes) {
  std::string json;
  for (const auto& [key, value] : metadata) {
    const auto key_json = to_json(key);
    const auto value_json = to_json(value);
    if (!key_json || !value_json) {
      mistakes.add(concat(
          "the ",
          key_json ? "value" : "key",
          " of metadata ",
          quote(key),
          " is not UTF-8"));
      continue;
    }
    json += concat(json.empty() ? "" : ",", *key_json, ":", *value_json);
  }
  return concat("\"__metadata__\":{", json, "}");
}

std::string entry_json(const Output& output, size_t begin) {
  std::vector<int64_t> shape = output.tensor->sizes().vec();
  if (output.dtype->bits < 8) {
    shape.back() *= 2;  // the format counts values, libtorch pairs of them
  }
  return concat(
      *to_json(*output.name),
      ":{\"dtype\":\"",
      output.dtype->name,
      "\",\"shape\":",
      nlohmann::json(shape).dump(),
      ",\"data_offsets\":[",
      begin,
      ",",
      begin + output.tensor->nbytes(),
      "]}");
}

// The length and the JSON, padded so that the data starts at a multiple of 8.
std::string make_header(
    const std::vector<Output>& outputs,
    const std::map<std::string, std::string>& metadata,
    detail::Mistakes& mistakes) {
  std::string json = "{";
  if (!metadata.empty()) {
    json += metadata_json(metadata, mistakes);
  }
  size_t begin = 0;
  for (const auto& output : outputs) {
    json += concat(json.size() == 1 ? "" : ",", entry_json(output, begin));
    begin += output.tensor->nbytes();
  }
  json += "}";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  if (json.size() > detail::most_header_bytes) {
    mistakes.add(concat(
        "its header would have ",
        json.size(),
        " bytes, more than the allowed ",
        detail::most_header_bytes));
  }
  std::string length;
  for (size_t shift = 0; shift < 64; shift += 8) {
    length += static_cast<char>(json.size() >> shift & 0xff);
  }
  return length + json;
}

void write_tensor(const at::Tensor& tensor, detail::AtomicFile& file) {
  at::Tensor dense = tensor.detach().cpu().resolve_conj().resolve_neg();
  if (!dense.is_contiguous()) {
    // Not every dtype can be copied (Float4_e2m1fn_x2), but bytes can.
    dense = dense.element_size() == 1 ? dense.view(at::kByte) : dense;
    dense = dense.contiguous();
  }
  if (dense.nbytes() > 0) {
    file.write(dense.const_data_ptr(), dense.nbytes());
  }
}

}  // namespace

void save_safetensors(
    const StateDict& tensors,
    const std::filesystem::path& path,
    const std::map<std::string, std::string>& metadata) {
  detail::Mistakes mistakes(
      ErrorKind::file, concat("cannot write '", path.string(), "'"));
  const auto outputs = make_outputs(tensors, mistakes);
  const std::string header = make_header(outputs, metadata, mistakes);
  mistakes.raise_if_any();
  detail::AtomicFile file(path);
  file.write(header.data(), header.size());
  for (const auto& output : outputs) {
    write_tensor(*output.tensor, file);
  }
  file.publish();
}

}  // namespace peft
