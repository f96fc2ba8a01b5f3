// SPDX-License-Identifier: Apache-2.0
#include "graph/compiler.h"

#include "base/text.h"
#include "graph/mode_arguments.h"
#include "graph/node_text.h"
#include "graph/number_operators.h"
#include "graph/operator_call.h"
#include "graph/python_operators.h"

namespace peft::graph {
namespace {

using detail::concat;

// "torch.ops.aten.add.Tensor" -> {"aten::add", "Tensor"}
std::optional<c10::OperatorHandle> find_operator(const std::string& target) {
  const std::string name = target.substr(operator_prefix.size());
  const auto first = name.find('.');
  const auto last = name.rfind('.');
  if (first == std::string::npos || first == last) {
    return std::nullopt;
  }
  std::string overload = name.substr(last + 1);
  if (overload == "default") {
    overload.clear();
  }
  return c10::Dispatcher::singleton().findSchema(
      {concat(
           name.substr(0, first),
           "::",
           name.substr(first + 1, last - first - 1)),
       overload});
}

bool keeps_the_layout(const std::string& op) {
  static const std::set<std::string> ops = {
      "aten::to",
      "aten::_to_copy",
      "aten::detach",
      "aten::alias",
      "aten::contiguous",
      "aten::clone"};
  return ops.contains(op);
}

bool may_swap_dimensions(const std::string& op) {
  static const std::set<std::string> ops = {
      "aten::t", "aten::numpy_T", "aten::permute", "aten::transpose"};
  return ops.contains(op);
}

bool swaps_the_two_dimensions(
    const std::string& op,
    const std::vector<Operand>& operands) {
  if (op == "aten::t" || op == "aten::numpy_T") {
    return true;
  }
  const auto* first = operands.size() > 1 ? operands[1].if_constant() : nullptr;
  if (op == "aten::permute") {
    return first && first->isIntList() &&
        first->toIntVector() == std::vector<std::int64_t>{1, 0};
  }
  const auto* second =
      operands.size() > 2 ? operands[2].if_constant() : nullptr;
  if (op != "aten::transpose" || !first || !second || !first->isInt() ||
      !second->isInt()) {
    return false;
  }
  // (0, 1), (1, 0), (-2, -1) and mixtures, of a matrix
  return (first->toInt() + 2) % 2 != (second->toInt() + 2) % 2;
}

}  // namespace

Graph Compiler::compile(const Json& graph, const std::vector<Value>& inputs) {
  return compile_at(graph, inputs, 0, 0);
}

Graph Compiler::compile_at(
    const Json& json,
    const std::vector<Value>& inputs,
    std::size_t depth,
    std::size_t outer_vmaps) {
  if (depth > deepest_graph) {
    throw BrokenJson("graphs are nested too deeply");
  }
  const Json& names = list_field(json, "inputs");
  if (names.size() != inputs.size()) {
    throw BrokenJson(concat(
        "a graph takes ",
        names.size(),
        " inputs and is "
        "given ",
        inputs.size()));
  }
  Graph graph;
  Scope scope;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    Value value = inputs[i];
    Slot slot = no_slot;
    if (value.operand.kind == Operand::Kind::slot) {
      slot = static_cast<Slot>(graph.slots++);
      value.operand = Operand::of_slot(slot);
    }
    graph.inputs.push_back(slot);
    if (const std::string name = defined_name(names[i]); !name.empty()) {
      scope.define(name, std::move(value));
    }
  }
  Builder builder{
      graph,
      scope,
      graph.instructions,
      depth,
      outer_vmaps,
      optional_field(json, "tensor_values")};
  compile_nodes(field(json, "nodes"), builder);
  for (const Json& output : list_field(json, "outputs")) {
    for (Value& value : read_values(output, scope)) {
      graph.outputs.push_back(std::move(value.operand));
    }
  }
  graph.find_last_uses();
  return graph;
}

void Compiler::compile_nodes(const Json& nodes, Builder& builder) {
  for (const Json& node : as_list(nodes)) {
    Origin origin;
    try {
      origin = read_origin(node);
      compile_node(node, origin, builder);
    } catch (const BrokenJson& error) {
      mistakes_.add(concat(origin.text(), ": ", error.what()));
      // What follows is not to blame for missing this node's results.
      for (const std::string& name : flat_names(field(node, "outputs"))) {
        if (!name.empty()) {
          builder.scope.define_if_new(name, {});
        }
      }
    }
  }
  check_vmaps_closed(builder);
}

void Compiler::compile_node(const Json& node, Origin origin, Builder& builder) {
  const auto [path, type] = calling_module(node);
  if (!type.empty()) {
    findings_.module_types.emplace(path, type);
  }
  check_given_once(node);
  const std::string& target = origin.target;
  std::unique_ptr<Instruction> instruction;
  if (target.starts_with(higher_order_prefix)) {
    instruction = call_higher_order(node, std::move(origin), builder);
  } else if (find_number_operator(target)) {
    instruction = call_number_operator(node, std::move(origin), builder);
  } else if (find_python_operator(target)) {
    instruction = call_python_operator(node, std::move(origin), builder);
  } else if (target.starts_with(functorch_prefix)) {
    instruction = call_functorch(node, std::move(origin), builder);
  } else if (target.starts_with(operator_prefix)) {
    instruction = call_operator(node, std::move(origin), builder);
  } else {
    throw BrokenJson("it is a Python function, which nothing here stands for");
  }
  if (instruction) {
    builder.add(std::move(instruction));
  }
  if (builder.is_program() && is_from_weights(node, builder.scope)) {
    for (const std::string& name : flat_names(field(node, "outputs"))) {
      if (!name.empty()) {
        builder.scope.set_from_weights(name);
      }
    }
  }
}

std::vector<Operand> Compiler::read_operands(
    const Json& node,
    const c10::FunctionSchema& schema,
    const Origin& origin,
    const Scope& scope) {
  std::map<std::string, const Json*> given;
  for (const Json& input : list_field(node, "inputs")) {
    given[as_text(field(input, "name"))] = &field(input, "arg");
  }
  std::vector<Operand> operands;
  std::vector<std::pair<std::size_t, Value>> reads;
  for (const c10::Argument& argument : schema.arguments()) {
    const auto found = given.find(argument.name());
    if (found == given.end()) {
      if (!argument.default_value()) {
        throw BrokenJson(
            concat("its argument '", argument.name(), "' is missing"));
      }
      operands.push_back(Operand::of_constant(*argument.default_value()));
      continue;
    }
    Operand operand = read_argument(*found->second, argument.type(), scope);
    const auto values = read_values(*found->second, scope);
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!values[i].origin) {
        continue;
      }
      Value value = values[i];
      if (value.operand.kind == Operand::Kind::weight) {
        value.origin->weight =
            choose_(value.origin->weight, origin.module_path);
        (operand.items.empty() ? operand : operand.items[i]).index =
            value.origin->weight;
      }
      reads.emplace_back(operands.size(), std::move(value));
    }
    operands.push_back(std::move(operand));
    given.erase(found);
  }
  if (!given.empty()) {
    throw BrokenJson(
        concat("the operator has no argument '", given.begin()->first, "'"));
  }
  for (const auto& [argument, value] : reads) {
    note_read(schema, argument, value, operands);
  }
  return operands;
}

void Compiler::note_read(
    const c10::FunctionSchema& schema,
    std::size_t argument,
    const Value& value,
    const std::vector<Operand>& operands) {
  findings_.reads.push_back(read_of(schema, argument, *value.origin, operands));
}

WeightRead Compiler::read_of(
    const c10::FunctionSchema& schema,
    std::size_t argument,
    const WeightOrigin& origin,
    const std::vector<Operand>& operands) {
  WeightRead read{
      .weight = origin.weight,
      .op = schema.name(),
      .argument = schema.arguments()[argument].name(),
      .transposed = origin.transposed,
      .groups = 1,
      .passes_on = keeps_the_layout(schema.name()) ||
          may_swap_dimensions(schema.name())};
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const auto* constant = operands[i].if_constant();
    const std::string& name = schema.arguments()[i].name();
    if (name == "groups" && constant && constant->isInt()) {
      read.groups = constant->toInt();
    }
    if (name == "transposed" && constant && constant->toBool()) {
      read.op = "aten::conv_transpose";  // reads it the other way round
    }
  }
  return read;
}

// The transpose of a weight, or a cast of it, is still that weight.
void Compiler::follow_weight(
    const c10::FunctionSchema& schema,
    const Json& node,
    const std::vector<Operand>& operands,
    Builder& builder) {
  const Json& outputs = list_field(node, "outputs");
  const bool turns = swaps_the_two_dimensions(schema.name(), operands);
  if (outputs.size() != 1 || (!turns && !keeps_the_layout(schema.name()))) {
    return;
  }
  const auto given = read_values(
      field(list_field(node, "inputs").at(0), "arg"), builder.scope);
  if (given.size() != 1 || !given[0].origin) {
    return;
  }
  WeightOrigin origin = *given[0].origin;
  origin.transposed ^= turns;
  if (operands[0].kind == Operand::Kind::weight) {
    origin.weight = operands[0].index;
  }
  builder.scope.set_origin(defined_name(outputs[0]), origin);
}

std::unique_ptr<Instruction>
Compiler::call_operator(const Json& node, Origin origin, Builder& builder) {
  const auto op = find_operator(origin.target);
  if (!op) {
    throw BrokenJson(
        "this libtorch has no such operator; if a library brings it, load the "
        "library first; if it exists in Python only, export without it; if it "
        "came with a newer torch, use a libtorch that is as new");
  }
  const c10::FunctionSchema& schema = op->schema();
  auto operands = read_operands(node, schema, origin, builder.scope);
  stand_in_for_computed(schema, node, origin, operands, builder);
  const Json& outputs = list_field(node, "outputs");
  if (outputs.size() > schema.returns().size()) {
    throw BrokenJson(concat(
        "it has ",
        outputs.size(),
        " results, the operator ",
        schema.returns().size()));
  }
  auto results = define_results(outputs, builder);

  follow_weight(schema, node, operands, builder);
  const ModeArguments mode = find_mode(schema, operands);
  findings_.has_training_mode |= mode.has_training_mode;
  findings_.has_eval_mode |= mode.has_eval_mode;
  const bool counts = schema.name() == "aten::add_" && !operands.empty() &&
      operands[0].kind == Operand::Kind::weight &&
      batch_counters_.count(operands[0].index) > 0;
  auto call = std::make_unique<OperatorCall>(
      std::move(origin), *op, std::move(operands), std::move(results));
  call->set_in_eval(mode.in_eval);
  if (counts) {
    call->skip_in_eval();
  }
  return call;
}

std::unique_ptr<Instruction> Compiler::call_number_operator(
    const Json& node,
    Origin origin,
    Builder& builder) {
  const NumberOperator& op = *find_number_operator(origin.target);
  std::vector<Operand> operands;
  for (const Json& input : list_field(node, "inputs")) {
    operands.push_back(
        read_argument(field(input, "arg"), nullptr, builder.scope));
  }
  auto results = define_results(field(node, "outputs"), builder);
  if (operands.size() != op.arity || results.size() != 1) {
    throw BrokenJson(concat(
        "it has ",
        operands.size(),
        " arguments and ",
        results.size(),
        " results"));
  }
  return std::make_unique<FunctionCall>(
      std::move(origin), op.run, std::move(operands), std::move(results[0]));
}

std::unique_ptr<Instruction> Compiler::call_python_operator(
    const Json& node,
    Origin origin,
    Builder& builder) {
  const PythonOperator& op = *find_python_operator(origin.target);
  auto operands = read_operands(node, op.schema, origin, builder.scope);
  auto results = define_results(field(node, "outputs"), builder);
  if (results.size() != 1) {
    throw BrokenJson(concat("it has ", results.size(), " results"));
  }
  return std::make_unique<FunctionCall>(
      std::move(origin), op.run, std::move(operands), std::move(results[0]));
}

Slot Compiler::define_slot(const std::string& name, Builder& builder) {
  if (name.empty()) {
    return no_slot;
  }
  const auto slot = static_cast<Slot>(builder.graph.slots++);
  builder.scope.define(name, {Operand::of_slot(slot), {}});
  return slot;
}

std::vector<Result> Compiler::define_results(
    const Json& outputs,
    Builder& builder) {
  const auto define = [&](const std::string& name) {
    return define_slot(name, builder);
  };
  std::vector<Result> results;
  for (const Json& output : as_list(outputs)) {
    const auto [tag, value] = as_union(output);
    Result result;
    if (tag == "as_tensors" || tag == "as_optional_tensors") {
      result.is_list = true;
      for (const Json& item : as_list(*value)) {
        result.items.push_back(define(
            tag == "as_tensors" ? as_text(field(item, "name"))
                                : defined_name(item)));
      }
    } else {
      result.slot = define(defined_name(output));
    }
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace peft::graph
