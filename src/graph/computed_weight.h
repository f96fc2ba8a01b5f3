// SPDX-License-Identifier: Apache-2.0
// Weights that the graph computes from others before an operator reads them:
// weight norm, spectral norm, standardised convolutions. No tensor of the
// program holds such a weight, and what it is may change with each run; it has
// a number of its own all the same, behind those of the table, where an adapter
// library may put something that stands for it.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "graph/instruction.h"

namespace peft::graph {

/// One place where the program reads a weight.
struct WeightRead {
  std::uint32_t weight;
  std::string op;        // "aten::linear"
  std::string argument;  // "weight"
  bool transposed;       // it read the weight's transpose
  std::int64_t groups;   // of a convolution, else 1
  bool passes_on;        // it only turns or casts the weight for other readers
};

struct ComputedWeight {
  std::uint32_t number;
  std::string path;  // of the module whose operator reads it
  std::vector<std::int64_t> sizes;
  at::ScalarType dtype;
  std::vector<WeightRead> reads;  // one
  /// Where it is, when so many instructions of the program's graph have run.
  Slot slot;
  std::size_t before;
  /// The module reads several that are not alike.
  bool is_ambiguous = false;
};

/// What an adapter library makes of `value`, which the graph computed, where
/// `standing` stands for it. One function for the process; nullptr before an
/// adapter was made.
using StandOn =
    at::Tensor (*)(const at::Tensor& standing, const at::Tensor& value);
void set_stand_on(StandOn function);

/// Hands a computed weight on to the operator that reads it.
class StandIn final : public Instruction {
 public:
  StandIn(Origin origin, Operand value, std::uint32_t number, Result result)
      : Instruction(std::move(origin)),
        value_(std::move(value)),
        number_(number),
        result_(std::move(result)) {}

  void run(Frame& frame) const override;
  std::vector<Operand*> operands() override { return {&value_}; }
  std::vector<Result*> results() override { return {&result_}; }

 private:
  Operand value_;
  std::uint32_t number_;
  Result result_;
};

/// Which instructions of a graph make and write each value.
class Makers {
 public:
  explicit Makers(Graph& graph);

 private:
  friend class Recipe;
  struct Step;

  std::size_t slots_;
  std::vector<std::shared_ptr<const Step>> steps_;
  std::map<Slot, std::vector<std::size_t>> by_slot_;
};

/// The instructions that a value is made by, and how to run them alone.
class Recipe {
 public:
  /// Of the value in `slot` when the first `before` instructions have run, all
  /// of it made of weights.
  Recipe(const Makers& makers, std::size_t before, Slot slot);

  /// The numbers of the weights that it is made of.
  const std::set<std::uint32_t>& weights() const { return weights_; }
  /// The value now; nothing of the program is changed, whatever its
  /// instructions write to.
  at::Tensor run(const Weights& weights, bool training) const;

 private:
  std::size_t slots_;
  Slot slot_;
  std::vector<const Instruction*> steps_;  // not owned
  std::set<std::uint32_t> weights_;
  std::set<std::uint32_t> written_;
};

/// A tensor of this shape that takes no memory.
at::Tensor shape_only(
    const std::vector<std::int64_t>& sizes,
    const at::TensorOptions& options);

}  // namespace peft::graph
