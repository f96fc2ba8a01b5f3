// SPDX-License-Identifier: Apache-2.0
// What files call the tensors of all methods: whole parts of a key, as in
// "layers.0.query.lora_A.weight". Modules, and adapters in the keys of a whole
// model, may be called something that starts alike.
#pragma once

#include <string>
#include <string_view>

namespace peft::detail {

/// Whether `part` is such a name, of a method whose names start with `prefix`
/// ("lora_"; "": of any).
bool is_tensor_name(std::string_view part, std::string_view prefix = "");

/// "lora_A" for "lora_a", as MLX and torchtune spell it; "" for a name that is
/// right, or no tensor's.
std::string misspelt_tensor_name(std::string_view part);

}  // namespace peft::detail
