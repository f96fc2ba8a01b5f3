// SPDX-License-Identifier: Apache-2.0
#include "model/file_keys.h"

#include <algorithm>
#include <map>

#include "base/text.h"
#include "methods/tensor_names.h"
#include "model/wrapper_names.h"

namespace peft::detail {

std::vector<std::string> key_parts(std::string_view key) {
  std::vector<std::string> parts;
  while (true) {
    const auto dot = key.find('.');
    parts.emplace_back(key.substr(0, dot));
    if (dot == std::string_view::npos) {
      return parts;
    }
    key.remove_prefix(dot + 1);
  }
}

std::size_t tensor_name_at(std::string_view key, std::string_view prefix) {
  auto end = std::string_view::npos;
  for (auto dot = key.rfind('.'); dot != std::string_view::npos && dot > 0;
       end = dot, dot = key.rfind('.', dot - 1)) {
    const auto length = end == std::string_view::npos ? end : end - dot - 1;
    if (is_tensor_name(key.substr(dot + 1, length), prefix)) {
      return dot + 1;
    }
  }
  return std::string::npos;
}

void check_spelling(const std::vector<std::string>& keys, Mistakes& mistakes) {
  std::map<std::string, std::vector<std::string>> keys_by_name;
  std::map<std::string, std::string> meant;
  for (const std::string& key : keys) {
    if (tensor_name_at(key) != std::string::npos) {
      continue;
    }
    const auto parts = key_parts(key);
    // A layer stands before it; after it, at most an adapter and "weight".
    for (std::size_t i = 1; i < parts.size(); ++i) {
      const std::string name = misspelt_tensor_name(parts[i]);
      if (!name.empty() && parts.size() - i <= 3) {
        keys_by_name[parts[i]].push_back(key);
        meant.emplace(parts[i], name);
        break;
      }
    }
  }
  for (const auto& [part, some] : keys_by_name) {
    mistakes.add(concat(
        list_names(some, 3),
        " say '",
        part,
        "' where PEFT says '",
        meant[part],
        "'; rename them (what other libraries call '",
        part,
        "' may also be stored transposed)"));
  }
}

void explain_unexpected(
    const std::vector<std::string>& keys,
    Mistakes& mistakes) {
  check_spelling(keys, mistakes);
  explain_wrappers(keys, mistakes);
}

void explain_empty(const StateDict& weights, Mistakes& mistakes) {
  std::vector<std::string> empty;
  for (const auto& item : weights) {
    if (item.value().dim() == 1 && item.value().numel() == 0) {
      empty.push_back(item.key());
    }
  }
  if (!empty.empty()) {
    mistakes.add(concat(
        empty.size(),
        " tensors are empty, of shape [0], as DeepSpeed ZeRO-3 leaves what is "
        "not gathered when it is saved: ",
        list_names(empty, 2),
        "; save again with stage3_gather_16bit_weights_on_model_save (or "
        "Accelerate's get_state_dict), or make the file with zero_to_fp32.py"));
  }
}

}  // namespace peft::detail
