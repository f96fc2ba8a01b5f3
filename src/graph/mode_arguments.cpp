// SPDX-License-Identifier: Apache-2.0
#include "graph/mode_arguments.h"

namespace peft::graph {
namespace {

enum class Mode { none, training, eval };

// `running_statistics`: the operator was given a running mean.
Mode mode_of(
    const std::string& argument,
    const c10::IValue& value,
    bool running_statistics) {
  const bool switches = argument == "train" || argument == "training" ||
      (argument == "use_input_stats" && running_statistics);
  if (switches) {
    return value.isBool() && value.toBool() ? Mode::training : Mode::eval;
  }
  const bool drops = argument == "dropout_p" && value.isDouble();
  return drops && value.toDouble() != 0 ? Mode::training : Mode::none;
}

}  // namespace

ModeArguments find_mode(
    const c10::FunctionSchema& schema,
    const std::vector<Operand>& operands) {
  ModeArguments found;
  bool running_statistics = false;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const std::string& name = schema.arguments()[i].name();
    const c10::IValue* value = operands[i].if_constant();
    running_statistics |= name == "running_mean" && !(value && value->isNone());
    const Mode mode =
        value ? mode_of(name, *value, running_statistics) : Mode::none;
    if (mode == Mode::training) {
      found.in_eval.emplace_back(
          i, value->isBool() ? c10::IValue(false) : c10::IValue(0.0));
    }
    found.has_training_mode |= mode == Mode::training;
    found.has_eval_mode |= mode == Mode::eval;
  }
  return found;
}

}  // namespace peft::graph
