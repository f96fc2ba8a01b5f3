// SPDX-License-Identifier: Apache-2.0
// What the names in a graph's text mean while it is compiled.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "graph/json_fields.h"
#include "graph/operand.h"

namespace peft::graph {

/// How a value came from a weight: as it is, or as its transpose.
struct WeightOrigin {
  std::uint32_t weight;
  bool transposed = false;
};

/// A name's meaning.
struct Value {
  Operand operand;
  std::optional<WeightOrigin> origin;
  /// Of a slot: no input of the run changes it, but for what weights hold.
  bool from_weights = false;
};

class Scope {
 public:
  /// Throws BrokenJson when the name has a meaning already.
  void define(const std::string& name, Value value);
  /// Does nothing when the name has a meaning already.
  void define_if_new(const std::string& name, Value value) {
    values_.emplace(name, std::move(value));
  }
  /// Throws BrokenJson when it has none (yet): a cycle, or a missing value.
  const Value& get(const std::string& name) const;
  /// Says that the value `name` came from a weight.
  void set_origin(const std::string& name, WeightOrigin origin) {
    values_.at(name).origin = origin;
  }
  /// Says that no input of the run changes the value `name`.
  void set_from_weights(const std::string& name) {
    values_.at(name).from_weights = true;
  }

 private:
  std::unordered_map<std::string, Value> values_;
};

/// The argument `json` of a node as an operand of the type `expected`, which is
/// nullptr where no operator says what it takes. Throws BrokenJson for what
/// does not fit or is no kind of argument that the schema knows.
Operand read_argument(
    const Json& json,
    const c10::TypePtr& expected,
    const Scope& scope);

/// The operands in the argument `json`: one, or those of a list.
std::vector<Value> read_values(const Json& json, const Scope& scope);

/// The name that the result or input `json` of a graph defines; "" for none.
std::string defined_name(const Json& json);

}  // namespace peft::graph
