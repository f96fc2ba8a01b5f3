// SPDX-License-Identifier: Apache-2.0
#include "graph/control_flow.h"

#include <ATen/ops/stack.h>

#include "base/text.h"
#include "graph/operator_call.h"
#include "peft/error.h"

namespace peft::graph {
namespace {

using c10::IValue;
using detail::concat;
using IValues = std::vector<IValue>;

bool truth(const IValue& value) {
  if (value.isTensor()) {
    return value.toTensor().item().toBool();
  }
  return value.isBool() ? value.toBool() : value.toInt() != 0;
}

}  // namespace

GraphCall::GraphCall(
    Origin origin,
    std::vector<Graph> graphs,
    std::vector<Operand> operands,
    std::vector<Result> results)
    : Instruction(std::move(origin)),
      graphs_(std::move(graphs)),
      operands_(std::move(operands)),
      results_(std::move(results)) {}

std::vector<Operand*> GraphCall::operands() {
  return pointers(operands_);
}

std::vector<Result*> GraphCall::results() {
  return pointers(results_);
}

void GraphCall::for_each_constant(const std::function<void(Operand&)>& change) {
  Instruction::for_each_constant(change);
  for (Graph& graph : graphs_) {
    graph.for_each_constant(change);
  }
}

IValues GraphCall::arguments(Frame& frame) const {
  IValues values;
  values.reserve(operands_.size());
  for (const Operand& operand : operands_) {
    values.push_back(operand.evaluate(frame));
  }
  return values;
}

IValues GraphCall::call(std::size_t graph, IValues inputs, const Frame& frame)
    const {
  return run_graph(
      graphs_[graph], std::move(inputs), frame.weights, frame.training);
}

void GraphCall::store_all(IValues values, Frame& frame) const {
  if (values.size() != results_.size()) {
    throw Error(
        ErrorKind::program,
        concat(
            "the called graph returned ",
            values.size(),
            " values, where ",
            results_.size(),
            " are expected"));
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    store(results_[i], std::move(values[i]), frame);
  }
}

void Conditional::run(Frame& frame) const {
  IValues values = arguments(frame);
  const std::size_t branch = truth(values.front()) ? 0 : 1;
  values.erase(values.begin());
  store_all(call(branch, std::move(values), frame), frame);
}

void WhileLoop::run(Frame& frame) const {
  IValues values = arguments(frame);
  while (truth(call(0, values, frame).at(0))) {
    IValues next = call(1, values, frame);
    if (next.size() != carried_) {
      throw Error(
          ErrorKind::program,
          "the loop's body returned another number "
          "of values than it carries");
    }
    std::move(next.begin(), next.end(), values.begin());
  }
  values.resize(carried_);
  store_all(std::move(values), frame);
}

void Scan::run(Frame& frame) const {
  const IValues given = arguments(frame);
  const auto begin = given.begin();
  const auto first_x = begin + static_cast<std::ptrdiff_t>(carried_);
  const auto first_more = first_x + static_cast<std::ptrdiff_t>(scanned_);
  IValues carry(begin, first_x);
  const std::int64_t length = first_x->toTensor().size(0);
  if (length == 0) {
    throw Error(
        ErrorKind::program,
        "there is nothing to go over: the first "
        "dimension is 0");
  }
  std::vector<std::vector<at::Tensor>> rows;
  for (std::int64_t i = 0; i < length; ++i) {
    IValues inputs = std::move(carry);
    for (auto x = first_x; x != first_more; ++x) {
      inputs.push_back(x->toTensor().select(0, i));
    }
    inputs.insert(inputs.end(), first_more, given.end());
    IValues outputs = call(0, std::move(inputs), frame);
    const auto split = outputs.begin() + static_cast<std::ptrdiff_t>(carried_);
    carry.assign(outputs.begin(), split);
    rows.resize(static_cast<std::size_t>(outputs.end() - split));
    for (std::size_t k = 0; k < rows.size(); ++k) {
      rows[k].push_back((split + static_cast<std::ptrdiff_t>(k))->toTensor());
    }
  }
  IValues results = std::move(carry);
  for (const auto& row : rows) {
    results.push_back(at::stack(row));
  }
  store_all(std::move(results), frame);
}

}  // namespace peft::graph
