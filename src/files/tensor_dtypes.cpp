// SPDX-License-Identifier: Apache-2.0
#include "files/tensor_dtypes.h"

namespace peft::detail {
namespace {

struct Pair {
  std::string_view name;
  c10::ScalarType type;
};

constexpr Pair pairs[] = {
    {"BOOL", c10::ScalarType::Bool},
    {"U8", c10::ScalarType::Byte},
    {"I8", c10::ScalarType::Char},
    {"I16", c10::ScalarType::Short},
    {"U16", c10::ScalarType::UInt16},
    {"I32", c10::ScalarType::Int},
    {"U32", c10::ScalarType::UInt32},
    {"I64", c10::ScalarType::Long},
    {"U64", c10::ScalarType::UInt64},
    {"F16", c10::ScalarType::Half},
    {"BF16", c10::ScalarType::BFloat16},
    {"F32", c10::ScalarType::Float},
    {"F64", c10::ScalarType::Double},
    {"C64", c10::ScalarType::ComplexFloat},
    {"F8_E4M3", c10::ScalarType::Float8_e4m3fn},
    {"F8_E5M2", c10::ScalarType::Float8_e5m2},
    {"F8_E4M3FNUZ", c10::ScalarType::Float8_e4m3fnuz},
    {"F8_E5M2FNUZ", c10::ScalarType::Float8_e5m2fnuz},
    {"F8_E8M0", c10::ScalarType::Float8_e8m0fnu},
    {"F4", c10::ScalarType::Float4_e2m1fn_x2},
};

}  // namespace

std::optional<c10::ScalarType> to_scalar_type(std::string_view dtype) {
  for (const auto& pair : pairs) {
    if (pair.name == dtype) {
      return pair.type;
    }
  }
  return std::nullopt;
}

const SafetensorsDtype* to_safetensors_dtype(c10::ScalarType type) {
  for (const auto& pair : pairs) {
    if (pair.type == type) {
      return find_dtype(pair.name);
    }
  }
  return nullptr;
}

std::string supported_dtype_names() {
  std::string names;
  for (const auto& pair : pairs) {
    names += names.empty() ? "" : ", ";
    names += pair.name;
  }
  return names;
}

}  // namespace peft::detail
