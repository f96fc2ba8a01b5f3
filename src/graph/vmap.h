// SPDX-License-Identifier: Apache-2.0
// torch.vmap in a graph: the part of it that runs on one more batch dimension,
// which functorch hides from the operators in it.
//
// Source: torch/_functorch/predispatch.py and torch/_functorch/vmap.py.
#pragma once

#include <string>

#include <ATen/core/function_schema.h>

#include "graph/blocks.h"

namespace peft::graph {

/// What operators with random results give each row: nothing (they fail), the
/// same, or one of its own.
enum class Randomness { error, same, different };

/// nullopt for a word that torch.vmap does not know.
std::optional<Randomness> to_randomness(const std::string& word);

/// Whether a program runs the body of a torch.vmap on this thread. Operators
/// see its tensors with the hidden dimension in them, wherever functorch put
/// it.
bool runs_in_vmap();

/// One torch.vmap: its level of functorch is on the thread while the body runs,
/// and no longer, whatever the body does.
class VmapBlock final : public Block {
 public:
  VmapBlock(
      Origin origin,
      Instructions body,
      Operand size,
      Randomness randomness)
      : Block(std::move(origin), std::move(body)),
        size_(std::move(size)),
        randomness_(randomness) {}
  void run(Frame& frame) const override;
  std::vector<Operand*> operands() override { return {&size_}; }

 private:
  Operand size_;
  Randomness randomness_;
};

/// What enters a level and what leaves it.
struct BatchOperator {
  c10::FunctionSchema schema;
  /// `arguments` as the schema says, but for the level: by how many levels it
  /// is further out than the innermost one.
  c10::IValue (*run)(const std::vector<c10::IValue>& arguments);
};

/// "_add_batch_dim" and "_remove_batch_dim"; nullptr for another name.
const BatchOperator* find_batch_operator(const std::string& name);

}  // namespace peft::graph
