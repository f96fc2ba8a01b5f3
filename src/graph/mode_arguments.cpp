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

void write_eval_mode(Json& graph) {
  for (Json& node : graph["nodes"]) {
    bool running_statistics = false;
    for (Json& input : node["inputs"]) {
      const std::string name = input.value("name", "");
      Json& argument = input["arg"];
      running_statistics |=
          name == "running_mean" && !argument.contains("as_none");
      if (argument.contains("as_graph")) {
        write_eval_mode(argument["as_graph"]["graph"]);
      } else if (argument.contains("as_bool")) {
        Json& flag = argument["as_bool"];
        const bool on = flag.is_boolean() && flag.get<bool>();
        if (mode_of(name, on, running_statistics) == Mode::training) {
          flag = false;
        }
      } else if (argument.contains("as_float") && name == "dropout_p") {
        argument["as_float"] = 0.0;
      }
    }
  }
}

}  // namespace peft::graph
