// SPDX-License-Identifier: Apache-2.0
// A node that calls an operator: one of libtorch's or of a loaded library
// through the dispatcher, or a function of ours that stands for Python's.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include "graph/instruction.h"

namespace peft::graph {

class OperatorCall final : public Instruction {
 public:
  OperatorCall(
      Origin origin,
      c10::OperatorHandle op,
      std::vector<Operand> operands,
      std::vector<Result> results);

  void run(Frame& frame) const override;
  std::vector<Operand*> operands() override;
  std::vector<Result*> results() override;

  const c10::OperatorHandle& op() const { return op_; }
  /// The arguments that say whether dropout and batch statistics are in use are
  /// these in eval mode: {argument, value}.
  void set_in_eval(std::vector<std::pair<std::size_t, c10::IValue>> values) {
    in_eval_ = std::move(values);
  }
  /// It counts batches, which happens in training only.
  void skip_in_eval() { skipped_in_eval_ = true; }

 private:
  c10::OperatorHandle op_;
  std::vector<Operand> operands_;
  std::vector<Result> results_;
  std::vector<std::pair<std::size_t, c10::IValue>> in_eval_;
  bool skipped_in_eval_ = false;
};

/// A C++ function on values: what no dispatcher knows.
using Function = c10::IValue (*)(const std::vector<c10::IValue>& arguments);

class FunctionCall final : public Instruction {
 public:
  FunctionCall(
      Origin origin,
      Function function,
      std::vector<Operand> operands,
      Result result);

  void run(Frame& frame) const override;
  std::vector<Operand*> operands() override;
  std::vector<Result*> results() override { return {&result_}; }

 private:
  Function function_;
  std::vector<Operand> operands_;
  Result result_;
};

/// For implementing Instruction.
std::vector<Operand*> pointers(std::vector<Operand>& operands);
std::vector<Result*> pointers(std::vector<Result>& results);

}  // namespace peft::graph
