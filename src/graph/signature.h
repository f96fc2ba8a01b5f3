// SPDX-License-Identifier: Apache-2.0
// What the inputs and outputs of a program's graph are for.
//
// Source: GraphSignature in torch/_export/serde/schema.py.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "graph/payload.h"
#include "graph/scope.h"
#include "graph/weight_table.h"

namespace peft::graph {

struct Input {
  enum class Kind { weight, constant, user };

  Kind kind;
  std::string name;          // in the graph
  std::uint32_t weight = 0;  // of a weight: its number
  c10::IValue constant;      // what export fixed, or a torchbind object
  /// Export fixed this argument of forward.
  bool is_argument = false;
  bool is_tensor = false;  // of a user's input
};

struct Output {
  enum class Kind { user, weight, user_input, weight_gradient, input_gradient };

  Kind kind;
  std::uint32_t weight = 0;  // written to, or of the gradient
  std::size_t input = 0;     // the same, among the graph's inputs
};

struct Signature {
  std::vector<Input> inputs;
  std::vector<Output> outputs;

  /// Each argument of forward, in order: the numbers of graph inputs.
  std::vector<std::size_t> arguments() const;
};

/// Reads graph_module.signature. Gives `weights` their roles. Throws
/// BrokenJson.
Signature read_signature(
    const Json& signature,
    WeightTable& weights,
    const Payloads& constants);

/// What each input of the graph means to the compiler.
std::vector<Value> input_values(const Signature& signature);

}  // namespace peft::graph
