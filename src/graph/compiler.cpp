// SPDX-License-Identifier: Apache-2.0
#include "graph/compiler.h"

#include "base/text.h"
#include "graph/blocks.h"
#include "graph/control_flow.h"
#include "graph/operator_call.h"

namespace peft::graph {
namespace {

using detail::concat;

constexpr std::size_t deepest = 32;  // graphs in graphs
constexpr std::string_view operators = "torch.ops.";
constexpr std::string_view higher_order = "torch.ops.higher_order.";

// The last of the entries "key,path,class" of a module stack: {path, class}.
std::pair<std::string, std::string> innermost_module(const std::string& stack) {
  const std::string entry = stack.substr(stack.rfind(';') + 1);
  const auto first = entry.find(',');
  const auto last = entry.rfind(',');
  if (first == std::string::npos || first == last) {
    return {};
  }
  std::string path = entry.substr(first + 1, last - first - 1);
  path = path.substr(0, path.find('@'));  // "lin@1": called again
  return {path, entry.substr(last + 1)};
}

// The last 'File "x.py", line 3, in forward' of a Python stack trace.
std::string innermost_source(const std::string& trace) {
  const auto begin = trace.rfind("File \"");
  if (begin == std::string::npos) {
    return "";
  }
  return trace.substr(begin, trace.find('\n', begin) - begin);
}

const Json& list_field(const Json& object, const char* name) {
  return as_list(field(object, name));
}

std::string metadata_of(const Json& node, const char* name) {
  const Json* metadata = optional_field(node, "metadata");
  const Json* text = metadata ? optional_field(*metadata, name) : nullptr;
  return text ? as_text(*text) : "";
}

Origin read_origin(const Json& node) {
  Origin origin{.target = as_text(field(node, "target"))};
  const Json* name = optional_field(node, "name");
  if (name) {
    origin.node = as_text(*name);
  } else if (const Json& outputs = list_field(node, "outputs");
             !outputs.empty()) {
    origin.node = defined_name(outputs.front());  // before torch 2.10
  }
  origin.module_path =
      innermost_module(metadata_of(node, "nn_module_stack")).first;
  origin.source = innermost_source(metadata_of(node, "stack_trace"));
  return origin;
}

// "torch.ops.aten.add.Tensor" -> {"aten::add", "Tensor"}
std::optional<c10::OperatorHandle> find_operator(const std::string& target) {
  const std::string name = target.substr(operators.size());
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

const c10::IValue* constant_of(const Operand& operand) {
  return operand.kind == Operand::Kind::constant ? &operand.constant : nullptr;
}

// The names in a node's outputs, those of lists one after the other.
std::vector<std::string> flat_names(const Json& outputs) {
  std::vector<std::string> names;
  for (const Json& output : as_list(outputs)) {
    const auto [tag, value] = as_union(output);
    if (tag == "as_tensors") {
      for (const Json& item : as_list(*value)) {
        names.push_back(as_text(field(item, "name")));
      }
    } else {
      names.push_back(defined_name(output));
    }
  }
  return names;
}

bool swaps_the_two_dimensions(
    const std::string& op,
    const std::vector<Operand>& operands) {
  if (op == "aten::t" || op == "aten::numpy_T") {
    return true;
  }
  const auto* first = operands.size() > 1 ? constant_of(operands[1]) : nullptr;
  if (op == "aten::permute") {
    return first && first->isIntList() &&
        first->toIntVector() == std::vector<std::int64_t>{1, 0};
  }
  const auto* second = operands.size() > 2 ? constant_of(operands[2]) : nullptr;
  if (op != "aten::transpose" || !first || !second || !first->isInt() ||
      !second->isInt()) {
    return false;
  }
  // (0, 1), (1, 0), (-2, -1) and mixtures, of a matrix
  return (first->toInt() + 2) % 2 != (second->toInt() + 2) % 2;
}

// What eval mode changes: dropout and batch statistics.
struct ModeArguments {
  std::vector<std::pair<std::size_t, c10::IValue>> in_eval;
  bool has_training_mode = false;
  bool has_eval_mode = false;
};

ModeArguments find_mode(
    const c10::FunctionSchema& schema,
    const std::vector<Operand>& operands) {
  ModeArguments found;
  bool running_statistics = false;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const std::string& name = schema.arguments()[i].name();
    const c10::IValue* value = constant_of(operands[i]);
    running_statistics |= name == "running_mean" && !(value && value->isNone());
    if (!value) {
      continue;
    }
    if (name == "train" || name == "training") {
      if (value->isBool() && value->toBool()) {
        found.in_eval.emplace_back(i, false);
      } else {
        found.has_eval_mode = true;
      }
    } else if (name == "use_input_stats" && running_statistics) {
      if (value->toBool()) {
        found.in_eval.emplace_back(i, false);
      } else {
        found.has_eval_mode = true;
      }
    } else if (
        name == "dropout_p" && value->isDouble() && value->toDouble() != 0) {
      found.in_eval.emplace_back(i, 0.0);
    }
  }
  found.has_training_mode = !found.in_eval.empty();
  return found;
}

}  // namespace

Graph Compiler::compile(const Json& graph, const std::vector<Value>& inputs) {
  return compile_at(graph, inputs, 0);
}

Graph Compiler::compile_at(
    const Json& json,
    const std::vector<Value>& inputs,
    std::size_t depth) {
  if (depth > deepest) {
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
  Builder builder{graph, scope, graph.instructions, depth};
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
      compile_node(node, builder);
    } catch (const BrokenJson& error) {
      mistakes_.add(concat(origin.text(), ": ", error.what()));
      // What follows is not to blame for missing this node's results.
      for (const std::string& name : flat_names(field(node, "outputs"))) {
        if (!name.empty()) {
          builder.scope.define(name, {});
        }
      }
    }
  }
}

void Compiler::compile_node(const Json& node, Builder& builder) {
  Origin origin = read_origin(node);
  const auto [path, type] =
      innermost_module(metadata_of(node, "nn_module_stack"));
  if (!type.empty()) {
    findings_.module_types.emplace(path, type);
  }
  const std::string& target = origin.target;
  std::unique_ptr<Instruction> instruction;
  if (target.starts_with(higher_order)) {
    instruction = call_higher_order(node, std::move(origin), builder);
  } else if (find_number_operator(target)) {
    instruction = call_number_operator(node, std::move(origin), builder);
  } else if (target.starts_with(operators)) {
    instruction = call_operator(node, std::move(origin), builder);
  } else {
    throw BrokenJson("it is a Python function, which nothing here stands for");
  }
  if (instruction) {
    builder.instructions.push_back(std::move(instruction));
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
  WeightRead read{
      .weight = value.origin->weight,
      .op = schema.name(),
      .argument = schema.arguments()[argument].name(),
      .transposed = value.origin->transposed,
      .groups = 1};
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const auto* constant = constant_of(operands[i]);
    const std::string& name = schema.arguments()[i].name();
    if (name == "groups" && constant && constant->isInt()) {
      read.groups = constant->toInt();
    }
    if (name == "transposed" && constant && constant->toBool()) {
      read.op = "aten::conv_transpose";  // reads it the other way round
    }
  }
  findings_.reads.push_back(std::move(read));
}

std::unique_ptr<Instruction>
Compiler::call_operator(const Json& node, Origin origin, Builder& builder) {
  const auto op = find_operator(origin.target);
  if (!op) {
    throw BrokenJson(
        "this libtorch has no such operator; if a library brings it, load the "
        "library first, and if it exists in Python only, export without it");
  }
  const c10::FunctionSchema& schema = op->schema();
  auto operands = read_operands(node, schema, origin, builder.scope);
  const Json& outputs = list_field(node, "outputs");
  if (outputs.size() > schema.returns().size()) {
    throw BrokenJson(concat(
        "it has ",
        outputs.size(),
        " results, the operator ",
        schema.returns().size()));
  }
  auto results = define_results(outputs, builder);

  // The transpose of a weight is still that weight.
  if (results.size() == 1 && operands.size() > 0 &&
      swaps_the_two_dimensions(schema.name(), operands)) {
    const auto given = read_values(
        field(list_field(node, "inputs").at(0), "arg"), builder.scope);
    if (given.size() == 1 && given[0].origin) {
      WeightOrigin turned = *given[0].origin;
      turned.transposed = !turned.transposed;
      if (operands[0].kind == Operand::Kind::weight) {
        turned.weight = operands[0].index;
      }
      builder.scope.set_origin(defined_name(outputs[0]), turned);
    }
  }

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
  return std::make_unique<NumberCall>(
      std::move(origin), op, std::move(operands), std::move(results[0]));
}

std::vector<Result> Compiler::define_results(
    const Json& outputs,
    Builder& builder) {
  const auto define = [&](const std::string& name) {
    if (name.empty()) {
      return no_slot;
    }
    const auto slot = static_cast<Slot>(builder.graph.slots++);
    builder.scope.define(name, {Operand::of_slot(slot), {}});
    return slot;
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

Graph Compiler::compile_called(
    const Json& graph,
    const std::vector<Value>& inputs,
    std::size_t depth) {
  std::vector<Value> own;
  for (const Value& input : inputs) {
    own.push_back({Operand::of_slot(0), input.origin});
  }
  return compile_at(graph, own, depth + 1);
}

std::unique_ptr<Instruction>
Compiler::call_higher_order(const Json& node, Origin origin, Builder& builder) {
  const std::string name = origin.target.substr(higher_order.size());
  // The graphs, and the values of each other argument.
  std::vector<const Json*> graphs;
  std::vector<std::vector<Value>> given;
  const auto read = [&] {
    for (const Json& input : list_field(node, "inputs")) {
      const Json& argument = field(input, "arg");
      const auto [tag, value] = as_union(argument);
      if (tag == "as_graph") {
        graphs.push_back(&field(*value, "graph"));
      } else {
        given.push_back(read_values(argument, builder.scope));
      }
    }
  };
  const auto expect = [&](std::size_t graph_count, std::size_t argument_count) {
    read();
    if (graphs.size() != graph_count || given.size() != argument_count) {
      throw BrokenJson(concat(
          "it has ",
          graphs.size(),
          " graphs and ",
          given.size(),
          " further arguments"));
    }
  };
  const auto operands_from = [&](std::size_t first) {
    std::vector<Operand> operands;
    for (std::size_t i = first; i < given.size(); ++i) {
      for (const Value& value : given[i]) {
        operands.push_back(value.operand);
      }
    }
    return operands;
  };
  const auto values_from = [&](std::size_t first) {
    std::vector<Value> values;
    for (std::size_t i = first; i < given.size(); ++i) {
      values.insert(values.end(), given[i].begin(), given[i].end());
    }
    return values;
  };
  const auto called = [&](std::size_t first) {
    std::vector<Graph> compiled;
    for (const Json* graph : graphs) {
      compiled.push_back(
          compile_called(*graph, values_from(first), builder.depth));
    }
    return compiled;
  };
  const auto results = [&] {
    std::vector<Result> found;
    for (const std::string& result : flat_names(field(node, "outputs"))) {
      found.push_back({static_cast<Slot>(builder.graph.slots++), false, {}});
      builder.scope.define(result, {Operand::of_slot(found.back().slot), {}});
    }
    return found;
  };

  if (name == "cond") {
    expect(2, 2);
    auto compiled = called(1);
    return std::make_unique<Conditional>(
        std::move(origin), std::move(compiled), operands_from(0), results());
  }
  if (name == "while_loop") {
    expect(2, 2);
    auto compiled = called(0);
    return std::make_unique<WhileLoop>(
        std::move(origin),
        std::move(compiled),
        operands_from(0),
        results(),
        given[0].size());
  }
  if (name == "scan" || name == "map_impl") {
    const bool carries = name == "scan";
    expect(1, carries ? 3 : 2);
    if (!carries) {
      given.insert(given.begin(), std::vector<Value>{});
    }
    if (given[1].empty()) {
      throw BrokenJson("it goes over nothing");
    }
    auto compiled = called(0);
    return std::make_unique<Scan>(
        std::move(origin),
        std::move(compiled),
        operands_from(0),
        results(),
        given[0].size(),
        given[1].size());
  }
  compile_block(node, origin, builder);
  return nullptr;
}

void Compiler::compile_block(
    const Json& node,
    const Origin& origin,
    Builder& builder) {
  const std::string name = origin.target.substr(higher_order.size());
  const bool known = name == "wrap_with_set_grad_enabled" ||
      name == "wrap_with_autocast" || name == "invoke_subgraph" ||
      name == "tag_activation_checkpoint";
  if (!known) {
    throw BrokenJson("this higher-order operator is not known here");
  }
  // Settings, the graph, its operands.
  std::vector<const Json*> settings;
  const Json* body_json = nullptr;
  std::vector<Value> operands;
  for (const Json& input : list_field(node, "inputs")) {
    const Json& argument = field(input, "arg");
    const auto [tag, value] = as_union(argument);
    if (tag == "as_graph") {
      body_json = &field(*value, "graph");
    } else if (!body_json) {
      settings.push_back(&argument);
    } else if (tag != "as_string") {  // invoke_subgraph's name for it
      for (Value& operand : read_values(argument, builder.scope)) {
        operands.push_back(std::move(operand));
      }
    }
  }
  if (!body_json || builder.depth > deepest) {
    throw BrokenJson(
        body_json ? "graphs are nested too deeply" : "it has no graph");
  }

  const Json& inputs = list_field(*body_json, "inputs");
  if (inputs.size() != operands.size()) {
    throw BrokenJson(concat(
        "its graph takes ",
        inputs.size(),
        " inputs and is given ",
        operands.size()));
  }
  Scope scope;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (const auto input = defined_name(inputs[i]); !input.empty()) {
      scope.define(input, operands[i]);
    }
  }
  Instructions body;
  Builder inner{builder.graph, scope, body, builder.depth + 1};
  compile_nodes(field(*body_json, "nodes"), inner);

  // Its results are known outside under the names that the node gives them.
  std::vector<Value> outputs;
  for (const Json& output : list_field(*body_json, "outputs")) {
    for (Value& value : read_values(output, scope)) {
      outputs.push_back(std::move(value));
    }
  }
  const auto names = flat_names(field(node, "outputs"));
  if (names.size() != outputs.size()) {
    throw BrokenJson(concat(
        "its graph has ", outputs.size(), " results, the node ", names.size()));
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (!names[i].empty()) {
      builder.scope.define(names[i], std::move(outputs[i]));
    }
  }

  const auto setting = [&](std::size_t i) {
    if (i >= settings.size()) {
      throw BrokenJson("one of its settings is missing");
    }
    return read_argument(*settings[i], nullptr, builder.scope).constant;
  };
  if (name == "wrap_with_set_grad_enabled") {
    builder.instructions.push_back(std::make_unique<GradModeBlock>(
        origin, std::move(body), setting(0).toBool()));
  } else if (name == "wrap_with_autocast") {
    const c10::IValue dtype = setting(1);
    const c10::IValue cache = setting(3);
    builder.instructions.push_back(std::make_unique<AutocastBlock>(
        origin,
        std::move(body),
        AutocastSetting{
            .device = at::Device(setting(0).toStringRef()).type(),
            .dtype = dtype.isNone() ? std::nullopt
                                    : std::optional(dtype.toScalarType()),
            .enabled = setting(2).toBool(),
            .cache = cache.isNone() ? std::nullopt
                                    : std::optional(cache.toBool())}));
  } else {
    builder.instructions.push_back(
        std::make_unique<Block>(origin, std::move(body)));
  }
}

}  // namespace peft::graph
