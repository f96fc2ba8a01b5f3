// SPDX-License-Identifier: Apache-2.0
#include "graph/computed_weight.h"

#include <atomic>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include "graph/operator_call.h"

namespace peft::graph {
namespace {

std::atomic<StandOn> stand_on = nullptr;

bool writes_in_place(const Instruction& instruction) {
  const auto* call = dynamic_cast<const OperatorCall*>(&instruction);
  return call && call->op().schema().is_mutable();
}

template <class See>
void visit_operand(const Operand& operand, const See& see) {
  see(operand);
  for (const Operand& item : operand.items) {
    visit_operand(item, see);
  }
}

}  // namespace

// What an instruction does, or all that are inside a block.
struct Makers::Step {
  explicit Step(Instruction& outer) : instruction(&outer) { add(outer); }

  void add(Instruction& inner) {
    for (const Result* result : inner.results()) {
      made.push_back(result->slot);
      made.insert(made.end(), result->items.begin(), result->items.end());
    }
    const bool writes = writes_in_place(inner);
    for (const Operand* operand : inner.operands()) {
      visit_operand(*operand, [&](const Operand& given) {
        if (given.kind == Operand::Kind::slot) {
          read.push_back(given.index);
          if (writes) {
            made.push_back(given.index);
          }
        } else if (given.kind == Operand::Kind::weight) {
          weights.push_back(given.index);
          if (writes) {
            written.push_back(given.index);
          }
        }
      });
    }
    if (Instructions* body = inner.body()) {
      for (const auto& deeper : *body) {
        add(*deeper);
      }
    }
  }

  const Instruction* instruction;
  std::vector<Slot> made;  // or written to
  std::vector<Slot> read;
  std::vector<std::uint32_t> weights;
  std::vector<std::uint32_t> written;  // of those
};

void set_stand_on(StandOn function) {
  stand_on.store(function);
}

void StandIn::run(Frame& frame) const {
  c10::IValue value = value_.evaluate(frame);
  const StandOn function = stand_on.load(std::memory_order_acquire);
  if (function) {
    value = function(frame.weights[number_], value.toTensor());
  }
  store(result_, std::move(value), frame);
}

Makers::Makers(Graph& graph) : slots_(graph.slots) {
  for (const auto& instruction : graph.instructions) {
    const auto step = std::make_shared<const Step>(*instruction);
    for (const Slot slot : step->made) {
      by_slot_[slot].push_back(steps_.size());
    }
    steps_.push_back(step);
  }
}

Recipe::Recipe(const Makers& makers, std::size_t before, Slot slot)
    : slots_(makers.slots_), slot_(slot) {
  std::set<Slot> needed = {slot};
  std::vector<Slot> open = {slot};
  std::set<std::size_t> steps;
  while (!open.empty()) {
    const auto found = makers.by_slot_.find(open.back());
    open.pop_back();
    if (found == makers.by_slot_.end()) {
      continue;
    }
    for (const std::size_t i : found->second) {
      if (i >= before || !steps.insert(i).second) {
        continue;
      }
      const Makers::Step& step = *makers.steps_[i];
      weights_.insert(step.weights.begin(), step.weights.end());
      written_.insert(step.written.begin(), step.written.end());
      for (const Slot read : step.read) {
        if (needed.insert(read).second) {
          open.push_back(read);
        }
      }
    }
  }
  for (const std::size_t i : steps) {
    steps_.push_back(makers.steps_[i]->instruction);
  }
}

at::Tensor Recipe::run(const Weights& weights, bool training) const {
  const c10::InferenceMode usable_in_training(false);
  const at::NoGradGuard no_grad;
  Weights own = weights;
  for (const std::uint32_t number : written_) {
    own[number] = own[number].clone();
  }
  Frame frame{std::vector<c10::IValue>(slots_), own, training};
  for (const Instruction* step : steps_) {
    step->run(frame);
  }
  return frame.values[slot_].toTensor().detach().clone();
}

at::Tensor shape_only(
    const std::vector<std::int64_t>& sizes,
    const at::TensorOptions& options) {
  const c10::InferenceMode usable_in_training(false);
  return at::zeros({}, options).expand(sizes);
}

}  // namespace peft::graph
