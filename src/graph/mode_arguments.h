// SPDX-License-Identifier: Apache-2.0
// The arguments by which an operator knows whether it trains: dropout, batch
// statistics, attention dropout, those of recurrent layers. Found by their
// names in the operator's schema, so no list of operators is needed.
#pragma once

#include <utility>
#include <vector>

#include <ATen/core/function_schema.h>

#include "graph/json_fields.h"
#include "graph/operand.h"

namespace peft::graph {

struct ModeArguments {
  /// What they are in eval mode: {argument, value}; only of those that were
  /// exported in training mode.
  std::vector<std::pair<std::size_t, c10::IValue>> in_eval;
  bool has_training_mode = false;
  bool has_eval_mode = false;
};

ModeArguments find_mode(
    const c10::FunctionSchema& schema,
    const std::vector<Operand>& operands);

/// Gives those arguments their values of eval mode in the text of a graph and
/// of all graphs in it.
void write_eval_mode(Json& graph);

}  // namespace peft::graph
