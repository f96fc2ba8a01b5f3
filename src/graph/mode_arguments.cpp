// SPDX-License-Identifier: Apache-2.0
#include "graph/mode_arguments.h"

namespace peft::graph {
namespace {

enum class Mode { none, training, eval };

// What the operator was given for its running mean.
enum class Statistics { not_asked, none, running };

Statistics before_arguments(const std::string& op) {
  return op.find("batch_norm") == std::string::npos ? Statistics::not_asked
                                                    : Statistics::none;
}

// A batch norm without running statistics is the same in every mode.
Mode mode_of(
    const std::string& argument,
    const c10::IValue& value,
    Statistics statistics) {
  const bool switches = argument == "train" ||
      (argument == "training" && statistics != Statistics::none) ||
      (argument == "use_input_stats" && statistics == Statistics::running);
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
  Statistics statistics = before_arguments(schema.name());
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const std::string& name = schema.arguments()[i].name();
    const c10::IValue* value = operands[i].if_constant();
    if (name == "running_mean") {
      statistics =
          value && value->isNone() ? Statistics::none : Statistics::running;
    }
    const Mode mode = value ? mode_of(name, *value, statistics) : Mode::none;
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
    Statistics statistics = before_arguments(node.value("target", ""));
    for (Json& input : node["inputs"]) {
      const std::string name = input.value("name", "");
      Json& argument = input["arg"];
      if (name == "running_mean") {
        statistics = argument.contains("as_none") ? Statistics::none
                                                  : Statistics::running;
      }
      if (argument.contains("as_graph")) {
        write_eval_mode(argument["as_graph"]["graph"]);
      } else if (argument.contains("as_bool")) {
        Json& flag = argument["as_bool"];
        const bool on = flag.is_boolean() && flag.get<bool>();
        if (mode_of(name, on, statistics) == Mode::training) {
          flag = false;
        }
      } else if (argument.contains("as_float") && name == "dropout_p") {
        argument["as_float"] = 0.0;
      }
    }
  }
}

}  // namespace peft::graph
