// SPDX-License-Identifier: Apache-2.0
// Nodes that call graphs of their own: torch.cond, while_loop, scan and map.
// The called graphs run plainly, so autograd sees what was really computed.
//
// Source: torch/_higher_order_ops.
#pragma once

#include "graph/instruction.h"

namespace peft::graph {

/// What the kinds have in common: called graphs, operands, one slot a result.
class GraphCall : public Instruction {
 public:
  GraphCall(
      Origin origin,
      std::vector<Graph> graphs,
      std::vector<Operand> operands,
      std::vector<Result> results);

  std::vector<Operand*> operands() override;
  std::vector<Result*> results() override;
  void for_each_constant(const std::function<void(Operand&)>& change) override;

 protected:
  std::vector<c10::IValue> arguments(Frame& frame) const;
  std::vector<c10::IValue> call(
      std::size_t graph,
      std::vector<c10::IValue> inputs,
      const Frame& frame) const;
  void store_all(std::vector<c10::IValue> values, Frame& frame) const;

 private:
  std::vector<Graph> graphs_;
  std::vector<Operand> operands_;
  std::vector<Result> results_;
};

/// torch.cond(predicate, true_graph, false_graph, operands).
class Conditional final : public GraphCall {
 public:
  using GraphCall::GraphCall;  // graphs {true, false}; operands: predicate
                               // first
  void run(Frame& frame) const override;
};

/// while_loop(cond_graph, body_graph, carried, additional).
class WhileLoop final : public GraphCall {
 public:
  WhileLoop(
      Origin origin,
      std::vector<Graph> graphs,
      std::vector<Operand> operands,
      std::vector<Result> results,
      std::size_t carried)
      : GraphCall(
            std::move(origin),
            std::move(graphs),
            std::move(operands),
            std::move(results)),
        carried_(carried) {}
  void run(Frame& frame) const override;

 private:
  std::size_t carried_;
};

/// scan(combine_graph, carried, xs, additional) and, with nothing carried,
/// map(graph, xs, additional): over the first dimension of xs.
class Scan final : public GraphCall {
 public:
  Scan(
      Origin origin,
      std::vector<Graph> graphs,
      std::vector<Operand> operands,
      std::vector<Result> results,
      std::size_t carried,
      std::size_t scanned)
      : GraphCall(
            std::move(origin),
            std::move(graphs),
            std::move(operands),
            std::move(results)),
        carried_(carried),
        scanned_(scanned) {}
  void run(Frame& frame) const override;

 private:
  std::size_t carried_;
  std::size_t scanned_;
};

}  // namespace peft::graph
