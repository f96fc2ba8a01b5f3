// SPDX-License-Identifier: Apache-2.0
#include "graph/serialized_enums.h"

namespace peft::graph {

std::optional<at::ScalarType> to_scalar_type(std::int64_t number) {
  switch (number) {
    case 1:
      return at::kByte;
    case 2:
      return at::kChar;
    case 3:
      return at::kShort;
    case 4:
      return at::kInt;
    case 5:
      return at::kLong;
    case 6:
      return at::kHalf;
    case 7:
      return at::kFloat;
    case 8:
      return at::kDouble;
    case 9:
      return at::kComplexHalf;
    case 10:
      return at::kComplexFloat;
    case 11:
      return at::kComplexDouble;
    case 12:
      return at::kBool;
    case 13:
      return at::kBFloat16;
    case 28:
      return at::kUInt16;
    case 29:
      return at::kFloat8_e4m3fn;
    case 30:
      return at::kFloat8_e5m2;
    case 31:
      return at::kFloat8_e4m3fnuz;
    case 32:
      return at::kFloat8_e5m2fnuz;
    case 33:
      return at::kFloat8_e8m0fnu;
    case 34:
      return at::kUInt32;
    case 35:
      return at::kUInt64;
    default:
      return std::nullopt;
  }
}

std::optional<at::Layout> to_layout(std::int64_t number) {
  switch (number) {
    case 1:
      return at::kSparse;
    case 2:
      return at::kSparseCsr;
    case 3:
      return at::kSparseCsc;
    case 4:
      return at::kSparseBsr;
    case 5:
      return at::kSparseBsc;
    case 6:
      return at::kMkldnn;
    case 7:
      return at::kStrided;
    default:
      return std::nullopt;
  }
}

std::optional<at::MemoryFormat> to_memory_format(std::int64_t number) {
  switch (number) {
    case 1:
      return at::MemoryFormat::Contiguous;
    case 2:
      return at::MemoryFormat::ChannelsLast;
    case 3:
      return at::MemoryFormat::ChannelsLast3d;
    case 4:
      return at::MemoryFormat::Preserve;
    default:
      return std::nullopt;
  }
}

at::Device read_device(const Json& json) {
  try {
    at::Device device(as_text(field(json, "type")));
    if (const Json* index = optional_field(json, "index")) {
      device.set_index(static_cast<at::DeviceIndex>(as_integer(*index)));
    }
    return device;
  } catch (const c10::Error&) {
    throw BrokenJson(
        "a device is not known: " + shortened(field(json, "type")));
  }
}

}  // namespace peft::graph
