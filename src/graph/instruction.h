// SPDX-License-Identifier: Apache-2.0
// One step of a graph, and the graph as a list of them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "graph/frame.h"
#include "graph/operand.h"

namespace peft::graph {

/// Where an instruction comes from, for messages.
struct Origin {
  std::string node;         // "linear_3"
  std::string target;       // "torch.ops.aten.linear.default"
  std::string module_path;  // "encoder.layer.0.query"
  std::string source;       // 'File "model.py", line 12, in forward'

  /// "node 'linear_3' (aten.linear.default) of 'encoder.layer.0.query', ..."
  std::string text() const;
};

/// Where the results of an instruction go. A result that is never read goes
/// nowhere.
struct Result {
  Slot slot = no_slot;
  bool is_list = false;
  std::vector<Slot> items;  // of a list result: one slot each
};

/// Stores `value` as `result` says. Throws when a list has another length.
void store(const Result& result, c10::IValue value, Frame& frame);

class Instruction {
 public:
  explicit Instruction(Origin origin) : origin_(std::move(origin)) {}
  virtual ~Instruction() = default;
  Instruction(const Instruction&) = delete;
  Instruction& operator=(const Instruction&) = delete;

  virtual void run(Frame& frame) const = 0;
  /// Its operands in the order of evaluation, and its results; for finding out
  /// which values are read last.
  virtual std::vector<Operand*> operands() = 0;
  virtual std::vector<Result*> results() = 0;
  /// The instructions inside it that work on the same frame.
  virtual std::vector<std::unique_ptr<Instruction>>* body() { return nullptr; }
  /// Calls `change` on every constant that it holds, in called graphs too.
  virtual void for_each_constant(const std::function<void(Operand&)>& change);

  const Origin& origin() const { return origin_; }

 private:
  Origin origin_;
};

using Instructions = std::vector<std::unique_ptr<Instruction>>;

/// Runs the instructions. A failure becomes an Error (program) that names the
/// innermost instruction.
void run_all(const Instructions& instructions, Frame& frame);

struct Graph {
  std::size_t slots = 0;
  std::vector<Slot> inputs;  // no_slot: not a value, or never read
  Instructions instructions;
  std::vector<Operand> outputs;
  /// Reads every value out of its slot where it is needed for the last time,
  /// so that a run holds no tensor longer than Python does.
  void find_last_uses();
  /// Calls `change` on every constant in it.
  void for_each_constant(const std::function<void(Operand&)>& change);
};

/// Runs `graph` in a frame of its own.
std::vector<c10::IValue> run_graph(
    const Graph& graph,
    std::vector<c10::IValue> inputs,
    const Weights& weights,
    bool training);

}  // namespace peft::graph
