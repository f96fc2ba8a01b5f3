// SPDX-License-Identifier: Apache-2.0
#include "graph/payload.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/util/safe_numerics.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include "base/text.h"
#include "base/warning.h"
#include "graph/json_fields.h"
#include "graph/serialized_enums.h"

namespace peft::graph {
namespace {

using detail::concat;
using detail::Mistakes;
using Sizes = std::vector<std::int64_t>;

// What tensor_meta says of one tensor.
struct Meta {
  at::ScalarType dtype;
  Sizes sizes;
  Sizes strides;
  std::int64_t offset;
  bool requires_grad;
  at::Device device{at::kCPU};
};

std::int64_t fixed_size(const Json& size) {
  const auto [tag, value] = as_union(size);
  if (tag != "as_int") {
    throw BrokenJson(concat("a weight has the size ", shortened(size)));
  }
  const std::int64_t number = as_integer(*value);
  if (number < 0) {
    throw BrokenJson(concat("a weight has the size ", number));
  }
  return number;
}

Sizes fixed_sizes(const Json& list) {
  Sizes sizes;
  for (const Json& size : as_list(list)) {
    sizes.push_back(fixed_size(size));
  }
  return sizes;
}

Meta read_meta(const Json& json) {
  const auto number = as_integer(field(json, "dtype"));
  const auto dtype = to_scalar_type(number);
  if (!dtype) {
    throw BrokenJson(concat("dtype ", number, " is not known"));
  }
  if (const auto layout = as_integer(field(json, "layout"));
      to_layout(layout) != at::kStrided) {
    throw BrokenJson(concat("its layout (", layout, ") is not strided"));
  }
  Meta meta{
      .dtype = *dtype,
      .sizes = fixed_sizes(field(json, "sizes")),
      .strides = fixed_sizes(field(json, "strides")),
      .offset = fixed_size(field(json, "storage_offset")),
      .requires_grad = as_flag(field(json, "requires_grad")),
      .device = read_device(field(json, "device"))};
  if (meta.sizes.size() != meta.strides.size()) {
    throw BrokenJson(concat(
        "it has ",
        meta.sizes.size(),
        " sizes and ",
        meta.strides.size(),
        " strides"));
  }
  return meta;
}

// The bytes from the storage's start to the tensor's last element.
std::uint64_t extent(const Meta& meta) {
  std::uint64_t elements = 1;
  std::uint64_t total = 1;
  bool overflow = false;
  for (std::size_t i = 0; i < meta.sizes.size(); ++i) {
    const auto size = static_cast<std::uint64_t>(meta.sizes[i]);
    if (size == 0) {
      return 0;
    }
    std::uint64_t reach = 0;
    overflow |= c10::mul_overflows(
        size - 1, static_cast<std::uint64_t>(meta.strides[i]), &reach);
    overflow |= c10::add_overflows(elements, reach, &elements);
    overflow |= c10::mul_overflows(total, size, &total);
  }
  overflow |= c10::add_overflows(
      elements, static_cast<std::uint64_t>(meta.offset), &elements);
  std::uint64_t bytes = 0;
  overflow |= c10::mul_overflows(
      elements,
      static_cast<std::uint64_t>(c10::elementSize(meta.dtype)),
      &bytes);
  if (overflow || total > (std::uint64_t{1} << 62)) {
    throw BrokenJson("its sizes overflow");
  }
  return bytes;
}

// Reads tensors, those of one record on one storage: tied weights and views of
// one another stay so.
class TensorReader {
 public:
  explicit TensorReader(const Archive& archive) : archive_(archive) {}

  at::Tensor read(const std::string& record, const Json& json) {
    const Meta meta = read_meta(json);
    const std::uint64_t needed = extent(meta);
    const at::Storage& storage = storage_of(record);
    if (needed > 0 && storage.nbytes() == 0) {
      detail::warn(concat(
          "'",
          archive_.path().string(),
          "': record '",
          record,
          "' is empty, as of a model exported without its weights; zeros "
          "stand in its place"));
    } else if (needed > storage.nbytes()) {
      throw BrokenJson(concat(
          "it needs ",
          needed,
          " bytes and record '",
          record,
          "' has ",
          storage.nbytes()));
    }
    const auto options = at::TensorOptions(meta.dtype);
    at::Tensor tensor = storage.nbytes() == 0
        ? at::zeros(meta.sizes, options)
        : at::empty({0}, options)
              .set_(storage, meta.offset, meta.sizes, meta.strides);
    if (!meta.device.is_cpu()) {
      tensor = tensor.to(meta.device);
    }
    if (meta.requires_grad &&
        (at::isFloatingType(meta.dtype) || at::isComplexType(meta.dtype))) {
      tensor.set_requires_grad(true);
    }
    return tensor;
  }

 private:
  const at::Storage& storage_of(const std::string& record) {
    if (const auto found = storages_.find(record); found != storages_.end()) {
      return found->second;
    }
    const Bytes bytes = archive_.bytes(record);  // throws for a missing record
    const auto size = static_cast<std::int64_t>(bytes.size);
    const at::Tensor whole = at::from_blob(
        bytes.data, {size}, [owner = bytes.owner](void*) {}, at::kByte);
    return storages_.emplace(record, whole.storage()).first->second;
  }

  const Archive& archive_;
  std::unordered_map<std::string, at::Storage> storages_;
};

Payload read_payload(
    const Archive& archive,
    TensorReader& tensors,
    const std::string& folder,
    const Json& json) {
  const std::string& name = as_text(field(json, "path_name"));
  const std::string record = folder + name;
  if (name.rfind("custom_obj_", 0) == 0) {
    const Bytes bytes = archive.bytes(record);
    return {.object = torch::jit::pickle_load_obj({bytes.data, bytes.size})};
  }
  if (as_flag(field(json, "use_pickle"))) {
    throw BrokenJson(
        "it is a Python object (a tensor subclass?); export the model with "
        "plain tensors");
  }
  const Json& meta = field(json, "tensor_meta");
  return {
      .tensor = tensors.read(record, meta),
      .is_parameter = as_flag(field(json, "is_param")),
      .alias_of = concat(
          record,
          meta.at("sizes").dump(),
          meta.at("strides").dump(),
          meta.at("storage_offset").dump())};
}

}  // namespace

Payloads read_payloads(
    const Archive& archive,
    const std::string& config,
    const std::string& folder,
    Mistakes& mistakes) {
  const Json json = Json::parse(archive.text(config));
  Payloads payloads;
  TensorReader tensors(archive);
  // Tied tensors are one tensor, as they were in Python.
  std::unordered_map<std::string, at::Tensor> by_place;
  for (const auto& [name, meta] : as_object(field(json, "config")).items()) {
    try {
      Payload payload = read_payload(archive, tensors, folder, meta);
      if (payload.tensor.defined()) {
        payload.tensor =
            by_place.emplace(payload.alias_of, payload.tensor).first->second;
      }
      payloads.emplace(name, std::move(payload));
    } catch (const Error& error) {
      mistakes.add(concat("'", name, "': ", error.what()));
    } catch (const std::exception& error) {
      mistakes.add(concat("'", name, "': ", first_line(error)));
    }
  }
  return payloads;
}

}  // namespace peft::graph
