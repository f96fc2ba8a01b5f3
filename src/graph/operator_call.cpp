// SPDX-License-Identifier: Apache-2.0
#include "graph/operator_call.h"

namespace peft::graph {
namespace {

template <class Item>
std::vector<Item*> pointers_to(std::vector<Item>& items) {
  std::vector<Item*> found;
  found.reserve(items.size());
  for (Item& item : items) {
    found.push_back(&item);
  }
  return found;
}

}  // namespace

std::vector<Operand*> pointers(std::vector<Operand>& operands) {
  return pointers_to(operands);
}

std::vector<Result*> pointers(std::vector<Result>& results) {
  return pointers_to(results);
}

OperatorCall::OperatorCall(
    Origin origin,
    c10::OperatorHandle op,
    std::vector<Operand> operands,
    std::vector<Result> results)
    : Instruction(std::move(origin)),
      op_(std::move(op)),
      operands_(std::move(operands)),
      results_(std::move(results)) {}

void OperatorCall::run(Frame& frame) const {
  if (skipped_in_eval_ && !frame.training) {
    return;
  }
  torch::jit::Stack stack;
  stack.reserve(operands_.size());
  for (const Operand& operand : operands_) {
    stack.push_back(operand.evaluate(frame));
  }
  if (!frame.training) {
    for (const auto& [argument, value] : in_eval_) {
      stack[argument] = value;
    }
  }
  op_.callBoxed(stack);
  for (std::size_t i = 0; i < results_.size(); ++i) {
    store(results_[i], std::move(stack[i]), frame);
  }
}

std::vector<Operand*> OperatorCall::operands() {
  return pointers(operands_);
}

std::vector<Result*> OperatorCall::results() {
  return pointers(results_);
}

FunctionCall::FunctionCall(
    Origin origin,
    Function function,
    std::vector<Operand> operands,
    Result result)
    : Instruction(std::move(origin)),
      function_(function),
      operands_(std::move(operands)),
      result_(std::move(result)) {}

void FunctionCall::run(Frame& frame) const {
  std::vector<c10::IValue> arguments;
  arguments.reserve(operands_.size());
  for (const Operand& operand : operands_) {
    arguments.push_back(operand.evaluate(frame));
  }
  store(result_, function_(arguments), frame);
}

std::vector<Operand*> FunctionCall::operands() {
  return pointers(operands_);
}

}  // namespace peft::graph
