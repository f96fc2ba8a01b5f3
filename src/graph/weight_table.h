// SPDX-License-Identifier: Apache-2.0
// A program's tensors by name and number: what its graph reads, and what
// stands there originally.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "graph/compiler.h"
#include "graph/frame.h"
#include "graph/payload.h"

namespace peft::graph {

struct WeightEntry {
  enum class Role { parameter, buffer, constant };

  std::string name;   // "encoder.layer.0.query.weight"
  at::Tensor tensor;  // the program's own
  Role role = Role::parameter;
  std::string alias_of;  // tied weights have the same
};

class WeightTable {
 public:
  /// Takes the tensors of an archive. Those that no input of the graph names
  /// are parameters or buffers as the archive says.
  WeightTable(const Payloads& weights, const Payloads& constants);

  const std::vector<WeightEntry>& entries() const { return entries_; }
  WeightEntry& entry(std::uint32_t number) { return entries_[number]; }
  /// The number of a name; throws BrokenJson when there is none.
  std::uint32_t number(const std::string& name) const;
  /// The name of the weight that the module at `path` means when it reads
  /// `number`: the one of its own among the names of tied weights.
  std::uint32_t choose(std::uint32_t number, const std::string& path) const;
  /// The counters of batch norms: "bn.num_batches_tracked".
  std::set<std::uint32_t> batch_counters() const;

 private:
  std::vector<WeightEntry> entries_;
  std::map<std::string, std::uint32_t> numbers_;
  std::map<std::string, std::vector<std::uint32_t>> aliases_;
};

/// "encoder.query.weight" -> {"encoder.query", "weight"}.
std::pair<std::string, std::string> split_name(const std::string& name);

}  // namespace peft::graph
