// SPDX-License-Identifier: Apache-2.0
#include "methods/tensor_names.h"

#include <algorithm>
#include <cctype>

namespace peft::detail {
namespace {

constexpr std::string_view names[] = {
    "ia3_l",
    "lora_A",
    "lora_B",
    "lora_E",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector"};

bool same_letters(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) ==
        std::tolower(static_cast<unsigned char>(y));
  });
}

}  // namespace

bool is_tensor_name(std::string_view part, std::string_view prefix) {
  return part.starts_with(prefix) &&
      std::find(std::begin(names), std::end(names), part) != std::end(names);
}

std::string misspelt_tensor_name(std::string_view part) {
  for (const std::string_view name : names) {
    if (part != name && same_letters(part, name)) {
      return std::string(name);
    }
  }
  return "";
}

}  // namespace peft::detail
