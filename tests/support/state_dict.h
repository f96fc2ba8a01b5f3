// SPDX-License-Identifier: Apache-2.0
// State dicts written in place: dict({{"a", tensor}, {"b", tensor}}).
#pragma once

#include <initializer_list>
#include <string>
#include <utility>

#include "peft/safetensors.h"

namespace peft_test {

inline peft::StateDict dict(
    std::initializer_list<std::pair<std::string, at::Tensor>> items) {
  peft::StateDict tensors;
  for (const auto& [name, tensor] : items) {
    tensors.insert(name, tensor);
  }
  return tensors;
}

}  // namespace peft_test
