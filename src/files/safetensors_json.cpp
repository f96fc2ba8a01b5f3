// SPDX-License-Identifier: Apache-2.0
#include "files/safetensors_json.h"

#include <algorithm>

#include "files/safetensors_json_reader.h"

namespace peft::detail {

DeclaredHeader parse_safetensors_json(
    std::string_view json,
    Mistakes& mistakes) {
  DeclaredHeader header;
  HeaderReader reader(header, mistakes);
  HeaderReader::Json::sax_parse(json.begin(), json.end(), &reader);
  return header;
}

std::string quote(std::string_view text) {
  constexpr size_t most = 100;
  size_t end = std::min(text.size(), most);
  while (end < text.size() && (text[end] & 0xc0) == 0x80) {
    --end;  // not in the middle of a character
  }
  std::string quoted = "'";
  for (const char c : text.substr(0, end)) {
    const bool printable = static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
    quoted += printable ? c : '?';
  }
  return quoted + (end < text.size() ? "...'" : "'");
}

}  // namespace peft::detail
