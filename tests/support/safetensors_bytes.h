// SPDX-License-Identifier: Apache-2.0
// Safetensors files written by hand, and what the header reader says of them.
#pragma once

#include <cstdint>
#include <string>

#include <gmock/gmock.h>

#include "files/safetensors_header.h"
#include "support/error_of.h"

namespace peft_test {

inline std::string length_of(uint64_t length) {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8) {
    bytes += static_cast<char>(length >> shift & 0xff);
  }
  return bytes;
}

inline std::string make_file(const std::string& json, size_t data_size) {
  return length_of(json.size()) + json + std::string(data_size, 'x');
}

inline peft::detail::SafetensorsHeader read(const std::string& file) {
  peft::detail::Mistakes mistakes(peft::ErrorKind::file, "cannot read 'f'");
  return peft::detail::read_safetensors_header(file, mistakes);
}

inline std::string error(const std::string& file) {
  const std::string text = error_of(peft::ErrorKind::file, [&] { read(file); });
  EXPECT_THAT(text, testing::StartsWith("cannot read 'f': "));
  return text;
}

// The error of a file with this header and 8 bytes of data.
inline std::string json_error(const std::string& json) {
  return error(make_file(json, 8));
}

// The error of a file whose only tensor, t, is declared so.
inline std::string tensor_error(
    const std::string& fields,
    size_t data_size = 8) {
  return error(make_file("{\"t\":{" + fields + "}}", data_size));
}

inline std::string entry(
    const std::string& shape,
    const std::string& offsets,
    const std::string& dtype = "F32") {
  return "\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
      ",\"data_offsets\":" + offsets;
}

inline std::string two(
    const std::string& a_offsets,
    const std::string& b_offsets) {
  return "{\"a\":{" + entry("[1]", a_offsets) + "},\"b\":{" +
      entry("[1]", b_offsets) + "}}";
}

}  // namespace peft_test
