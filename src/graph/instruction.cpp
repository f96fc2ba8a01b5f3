// SPDX-License-Identifier: Apache-2.0
#include "graph/instruction.h"

#include "base/text.h"
#include "peft/error.h"

namespace peft::graph {
namespace {

using detail::concat;

// libtorch's own text, without the C++ stack below it.
std::string short_text(const std::exception& error) {
  std::string text = error.what();
  const auto stack = text.find("\nException raised from");
  return stack == std::string::npos ? text : text.substr(0, stack);
}

// Walks backwards: the first time a slot is met is its last use.
class LastUses {
 public:
  explicit LastUses(std::size_t slots) : needed_(slots) {}

  void read(Operand& operand) {
    operand.visit_slots([&](Operand& slot) {
      slot.last_use = !needed_[slot.index];
      needed_[slot.index] = true;
    });
  }

  void visit(Instruction& instruction) {
    for (Result* result : instruction.results()) {
      forget_unneeded(*result);
    }
    if (Instructions* body = instruction.body()) {
      visit_all(*body);
    }
    const auto operands = instruction.operands();
    for (auto operand = operands.rbegin(); operand != operands.rend();
         ++operand) {
      read(**operand);
    }
  }

  void visit_all(Instructions& instructions) {
    for (auto i = instructions.rbegin(); i != instructions.rend(); ++i) {
      visit(**i);
    }
  }

  void forget_unneeded(Slot& slot) const {
    if (slot != no_slot && !needed_[slot]) {
      slot = no_slot;
    }
  }

 private:
  void forget_unneeded(Result& result) const {
    forget_unneeded(result.slot);
    for (Slot& item : result.items) {
      forget_unneeded(item);
    }
  }

  std::vector<bool> needed_;
};

void put(Slot slot, c10::IValue value, Frame& frame) {
  if (slot != no_slot) {
    frame.values[slot] = std::move(value);
  }
}

}  // namespace

std::string Origin::text() const {
  constexpr std::string_view common = "torch.ops.";
  std::string shown = target;
  if (shown.rfind(common, 0) == 0) {
    shown = shown.substr(common.size());
  }
  std::string text = concat("node '", node, "' (", shown, ")");
  if (!module_path.empty()) {
    text += concat(" of '", module_path, "'");
  }
  return source.empty() ? text : concat(text, ", ", source);
}

void store(const Result& result, c10::IValue value, Frame& frame) {
  if (!result.is_list) {
    put(result.slot, std::move(value), frame);
    return;
  }
  const auto items = value.isTuple() ? value.toTupleRef().elements().vec()
                                     : value.toListRef().vec();
  if (items.size() != result.items.size()) {
    throw Error(
        ErrorKind::program,
        concat(
            "it returned ",
            items.size(),
            " values where the program was "
            "exported with ",
            result.items.size()));
  }
  for (std::size_t i = 0; i < items.size(); ++i) {
    put(result.items[i], items[i], frame);
  }
}

void run_all(const Instructions& instructions, Frame& frame) {
  const Instruction* current = nullptr;
  try {
    for (const auto& instruction : instructions) {
      current = instruction.get();
      current->run(frame);
    }
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::program &&
        std::string_view(error.what()).starts_with("node '")) {
      throw;  // an instruction inside this one has said it
    }
    throw Error(
        ErrorKind::program,
        concat(current->origin().text(), ": ", error.what()));
  } catch (const std::exception& error) {
    throw Error(
        ErrorKind::program,
        concat(current->origin().text(), ": ", short_text(error)));
  }
}

void Graph::find_last_uses() {
  LastUses uses(slots);
  for (auto output = outputs.rbegin(); output != outputs.rend(); ++output) {
    uses.read(*output);
  }
  uses.visit_all(instructions);
  for (Slot& input : inputs) {
    uses.forget_unneeded(input);
  }
}

void Instruction::for_each_constant(
    const std::function<void(Operand&)>& change) {
  for (Operand* operand : operands()) {
    operand->visit_constants(change);
  }
  if (Instructions* inner = body()) {
    for (const auto& instruction : *inner) {
      instruction->for_each_constant(change);
    }
  }
}

void Graph::for_each_constant(const std::function<void(Operand&)>& change) {
  for (Operand& output : outputs) {
    output.visit_constants(change);
  }
  for (const auto& instruction : instructions) {
    instruction->for_each_constant(change);
  }
}

std::vector<c10::IValue> run_graph(
    const Graph& graph,
    std::vector<c10::IValue> inputs,
    const Weights& weights,
    bool training) {
  Frame frame{std::vector<c10::IValue>(graph.slots), weights, training};
  for (std::size_t i = 0; i < graph.inputs.size(); ++i) {
    put(graph.inputs[i], std::move(inputs[i]), frame);
  }
  inputs.clear();
  run_all(graph.instructions, frame);
  std::vector<c10::IValue> outputs;
  outputs.reserve(graph.outputs.size());
  for (const Operand& output : graph.outputs) {
    outputs.push_back(output.evaluate(frame));
  }
  return outputs;
}

}  // namespace peft::graph
