// SPDX-License-Identifier: Apache-2.0
#include "files/safetensors_header.h"

#include <algorithm>
#include <optional>

#include "base/text.h"
#include "files/safetensors_json.h"
#include "files/safetensors_rules.h"

namespace peft::detail {
namespace {

constexpr size_t length_bytes = 8;

// The JSON of the header, or nullopt with a mistake.
std::optional<std::string_view> find_json(
    std::string_view file,
    Mistakes& mistakes) {
  if (file.size() < length_bytes) {
    mistakes.add(concat(
        "it has ", file.size(), " bytes, too short for a safetensors file"));
    return std::nullopt;
  }
  uint64_t length = 0;  // little-endian
  for (size_t i = length_bytes; i-- > 0;) {
    length = length << 8 | static_cast<unsigned char>(file[i]);
  }
  const uint64_t rest = file.size() - length_bytes;
  if (length > most_header_bytes || length > rest) {
    mistakes.add(concat(
        "it declares a header of ",
        length,
        " bytes, but ",
        length > rest ? concat("only ", rest, " bytes follow")
                      : concat("at most ", most_header_bytes, " are allowed"),
        " (is it a safetensors file, downloaded completely?)"));
    return std::nullopt;
  }
  const std::string_view json = file.substr(length_bytes, length);
  if (!json.starts_with('{')) {
    mistakes.add("its header does not start with '{'");
    return std::nullopt;
  }
  // The JSON parser would take a zero byte for the end and ignore what follows.
  if (json.find('\0') != std::string_view::npos) {
    mistakes.add("its header is not valid JSON: it contains a zero byte");
    return std::nullopt;
  }
  return json;
}

}  // namespace

SafetensorsHeader read_safetensors_header(
    std::string_view file,
    Mistakes& mistakes) {
  const auto json = find_json(file, mistakes);
  mistakes.raise_if_any();
  DeclaredHeader declared = parse_safetensors_json(*json, mistakes);
  // Holes and overlaps can only be told when all tensors are known.
  bool offsets_known = !mistakes.any();
  for (const auto& tensor : declared.tensors) {
    const bool known = check_offsets(tensor, mistakes);
    check_size(tensor, known, mistakes);
    offsets_known = offsets_known && known;
  }
  const size_t data = length_bytes + json->size();
  if (offsets_known) {
    std::stable_sort(
        declared.tensors.begin(),
        declared.tensors.end(),
        [](const auto& a, const auto& b) { return a.offsets < b.offsets; });
    check_layout(declared.tensors, file.size() - data, mistakes);
  }
  mistakes.raise_if_any();

  SafetensorsHeader header{{}, std::move(declared.metadata)};
  header.tensors.reserve(declared.tensors.size());
  for (auto& tensor : declared.tensors) {
    header.tensors.push_back(TensorEntry{
        std::move(tensor.name),
        find_dtype(tensor.dtype),
        {tensor.shape.begin(), tensor.shape.end()},
        data + tensor.offsets[0],
        data + tensor.offsets[1]});
  }
  return header;
}

}  // namespace peft::detail
