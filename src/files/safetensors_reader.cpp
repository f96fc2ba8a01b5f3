// SPDX-License-Identifier: Apache-2.0
// load_safetensors: tensors that look straight into a private map of the file.
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include "base/mapped_file.h"
#include "base/mistakes.h"
#include "base/open_file.h"
#include "base/text.h"
#include "files/safetensors_header.h"
#include "files/safetensors_json.h"
#include "files/tensor_dtypes.h"
#include "peft/safetensors.h"

namespace peft {
namespace {

using detail::concat;

static_assert(
    std::endian::native == std::endian::little,
    "safetensors files are little-endian");

// Refuses what the format allows but libtorch cannot hold.
void check_dtypes(
    const detail::SafetensorsHeader& header,
    detail::Mistakes& mistakes) {
  for (const auto& entry : header.tensors) {
    const auto name = entry.dtype->name;
    const bool packed = entry.dtype->bits < 8;
    const bool even = !entry.shape.empty() && entry.shape.back() % 2 == 0;
    const auto bad = [&](const std::string& why) {
      mistakes.add(concat(
          "tensor ", detail::quote(entry.name), " has dtype ", name, why));
    };
    if (!detail::to_scalar_type(name)) {
      bad(concat(
          ", which libtorch does not have (supported are ",
          detail::supported_dtype_names(),
          ")"));
    } else if (packed && !even) {
      bad(", which libtorch holds only with an even last size");
    }
  }
  mistakes.raise_if_any();
}

at::Tensor make_tensor(
    const detail::TensorEntry& entry,
    const std::shared_ptr<detail::MappedFile>& file) {
  const auto options =
      at::TensorOptions().dtype(*detail::to_scalar_type(entry.dtype->name));
  std::vector<int64_t> shape = entry.shape;
  if (entry.dtype->bits < 8) {
    shape.back() /= 2;
  }
  const size_t size = entry.end - entry.begin;
  if (size == 0) {
    return at::empty(shape, options);
  }
  char* data = file->data() + entry.begin;
  const size_t item = options.dtype().itemsize();
  if (reinterpret_cast<uintptr_t>(data) % item != 0) {
    at::Tensor copy = at::empty(shape, options);
    std::memcpy(copy.mutable_data_ptr(), data, size);
    return copy;
  }
  // The deleter holds the map until the last view of the tensor is gone.
  return at::from_blob(data, shape, [file](void*) {}, options);
}

}  // namespace

StateDict load_safetensors(
    const std::filesystem::path& path,
    std::map<std::string, std::string>* metadata) {
  const auto file = std::make_shared<detail::MappedFile>(path);
  detail::Mistakes mistakes(ErrorKind::file, detail::cannot_read(path));
  auto header = detail::read_safetensors_header(
      std::string_view(file->data(), file->size()), mistakes);
  check_dtypes(header, mistakes);
  StateDict tensors;
  tensors.reserve(header.tensors.size());
  for (const auto& entry : header.tensors) {
    tensors.insert(entry.name, make_tensor(entry, file));
  }
  if (metadata != nullptr) {
    *metadata = std::move(header.metadata);
  }
  return tensors;
}

}  // namespace peft
