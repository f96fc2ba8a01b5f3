// SPDX-License-Identifier: Apache-2.0
#include "files/safetensors_rules.h"

#include <algorithm>
#include <optional>

#include "base/text.h"
#include "files/safetensors_dtypes.h"

namespace peft::detail {
namespace {

std::string print_shape(const std::vector<uint64_t>& shape) {
  constexpr size_t most = 8;
  std::string text;
  for (size_t i = 0; i < shape.size() && i < most; ++i) {
    text += concat(i == 0 ? "" : ", ", shape[i]);
  }
  return concat("[", text, shape.size() > most ? ", ...]" : "]");
}

std::string print(const DeclaredTensor& tensor) {
  return concat("tensor ", quote(tensor.name));
}

// The bytes of a tensor; nullopt with a mistake when no tensor can have them.
std::optional<uint64_t> count_bytes(
    const DeclaredTensor& tensor,
    const SafetensorsDtype& dtype,
    Mistakes& mistakes) {
  const std::string what = concat(
      print(tensor), ", ", dtype.name, " ", print_shape(tensor.shape), ", ");
  // Counted in bits, so that the number of bytes fits an int64_t as well. Sizes
  // of 0 count as 1: strides overflow even in an empty tensor.
  uint64_t bits = dtype.bits;
  bool empty = false;
  for (const uint64_t size : tensor.shape) {
    empty = empty || size == 0;
    const uint64_t factor = std::max<uint64_t>(size, 1);
    if (__builtin_mul_overflow(bits, factor, &bits)) {
      mistakes.add(concat(what, "is larger than any memory"));
      return std::nullopt;
    }
  }
  bits = empty ? 0 : bits;
  if (bits % 8 != 0) {
    mistakes.add(concat(what, "does not end at a whole byte"));
    return std::nullopt;
  }
  return bits / 8;
}

}  // namespace

bool check_offsets(const DeclaredTensor& tensor, Mistakes& mistakes) {
  const auto& offsets = tensor.offsets;
  if (offsets.size() != 2) {
    mistakes.add(concat(
        print(tensor), " has ", offsets.size(), " data_offsets, expected 2"));
    return false;
  }
  if (offsets[0] > offsets[1]) {
    mistakes.add(concat(
        print(tensor),
        " ends (",
        offsets[1],
        ") before it begins (",
        offsets[0],
        ")"));
    return false;
  }
  return true;
}

void check_size(
    const DeclaredTensor& tensor,
    bool offsets_known,
    Mistakes& mistakes) {
  const SafetensorsDtype* dtype = find_dtype(tensor.dtype);
  if (dtype == nullptr) {
    mistakes.add(concat(
        print(tensor),
        " has an unknown dtype ",
        quote(tensor.dtype),
        " (known are ",
        all_dtype_names(),
        ")"));
    return;
  }
  const auto bytes = count_bytes(tensor, *dtype, mistakes);
  if (!bytes || !offsets_known) {
    return;
  }
  const uint64_t held = tensor.offsets[1] - tensor.offsets[0];
  if (*bytes != held) {
    mistakes.add(concat(
        print(tensor),
        ", ",
        dtype->name,
        " ",
        print_shape(tensor.shape),
        ", needs ",
        *bytes,
        " bytes, but its data_offsets hold ",
        held));
  }
}

void check_layout(
    const std::vector<DeclaredTensor>& tensors,
    uint64_t data_size,
    Mistakes& mistakes) {
  uint64_t cursor = 0;
  const DeclaredTensor* last = nullptr;
  for (const auto& tensor : tensors) {
    const uint64_t begin = tensor.offsets[0];
    if (begin < cursor) {
      mistakes.add(concat(print(tensor), " overlaps ", print(*last)));
    } else if (begin > cursor) {
      mistakes.add(concat(
          "bytes ",
          cursor,
          " to ",
          begin,
          " of its data, before ",
          print(tensor),
          ", belong to no tensor"));
    }
    if (tensor.offsets[1] >= cursor) {
      cursor = tensor.offsets[1];
      last = &tensor;
    }
  }
  if (cursor > data_size) {
    mistakes.add(concat(
        "its tensors need ",
        cursor,
        " bytes of data, but it has only ",
        data_size,
        "; ",
        print(*last),
        " lies past its end (is the download complete?)"));
  } else if (cursor < data_size) {
    mistakes.add(concat(
        "the last ",
        data_size - cursor,
        " of its ",
        data_size,
        " bytes of data belong to no tensor"));
  }
}

}  // namespace peft::detail
