// SPDX-License-Identifier: Apache-2.0
#include "graph/weight_table.h"

#include "base/text.h"

namespace peft::graph {

using detail::concat;
using Role = WeightEntry::Role;

std::pair<std::string, std::string> split_name(const std::string& name) {
  const auto dot = name.rfind('.');
  if (dot == std::string::npos) {
    return {"", name};
  }
  return {name.substr(0, dot), name.substr(dot + 1)};
}

WeightTable::WeightTable(const Payloads& weights, const Payloads& constants) {
  const auto add = [&](const Payloads& payloads, bool constant) {
    for (const auto& [name, payload] : payloads) {
      if (payload.tensor.defined() && !numbers_.contains(name)) {
        numbers_[name] = static_cast<std::uint32_t>(entries_.size());
        aliases_[payload.alias_of].push_back(numbers_[name]);
        entries_.push_back(
            {name,
             payload.tensor,
             constant                   ? Role::constant
                 : payload.is_parameter ? Role::parameter
                                        : Role::buffer,
             payload.alias_of});
      }
    }
  };
  add(weights, false);
  add(constants, true);
}

std::uint32_t WeightTable::number(const std::string& name) const {
  const auto found = numbers_.find(name);
  if (found == numbers_.end()) {
    throw BrokenJson(concat("the archive has no tensor '", name, "'"));
  }
  return found->second;
}

std::uint32_t WeightTable::choose(std::uint32_t number, const std::string& path)
    const {
  for (const std::uint32_t alias : aliases_.at(entries_[number].alias_of)) {
    if (split_name(entries_[alias].name).first == path) {
      return alias;
    }
  }
  return number;
}

std::set<std::uint32_t> WeightTable::batch_counters() const {
  std::set<std::uint32_t> found;
  for (const auto& [name, number] : numbers_) {
    if (split_name(name).second == "num_batches_tracked") {
      found.insert(number);
    }
  }
  return found;
}

}  // namespace peft::graph
