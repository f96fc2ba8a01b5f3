// SPDX-License-Identifier: Apache-2.0
// The part of the compiler for nodes that have graphs of their own.
#include "base/text.h"
#include "graph/blocks.h"
#include "graph/compiler.h"
#include "graph/control_flow.h"
#include "graph/node_text.h"

namespace peft::graph {
namespace {

using detail::concat;

using Values = std::vector<Value>;

// A higher-order node's arguments: graphs, and the values of the others.
struct HigherOrderNode {
  std::vector<const Json*> graphs;
  std::vector<Values> given;

  HigherOrderNode(const Json& node, const Scope& scope) {
    for (const Json& input : list_field(node, "inputs")) {
      const Json& argument = field(input, "arg");
      const auto [tag, value] = as_union(argument);
      if (tag == "as_graph") {
        graphs.push_back(&field(*value, "graph"));
      } else {
        given.push_back(read_values(argument, scope));
      }
    }
  }

  void expect(std::size_t graph_count, std::size_t argument_count) const {
    if (graphs.size() != graph_count || given.size() != argument_count) {
      throw BrokenJson(concat(
          "it has ",
          graphs.size(),
          " graphs and ",
          given.size(),
          " further arguments"));
    }
  }

  // The values of all arguments from the first-th on.
  Values values_from(std::size_t first) const {
    Values values;
    for (std::size_t i = first; i < given.size(); ++i) {
      values.insert(values.end(), given[i].begin(), given[i].end());
    }
    return values;
  }
};

std::vector<Operand> operands_of(const Values& values) {
  std::vector<Operand> operands;
  for (const Value& value : values) {
    operands.push_back(value.operand);
  }
  return operands;
}

c10::IValue constant_at(const HigherOrderNode& node, std::size_t argument) {
  if (argument >= node.given.size() || node.given[argument].size() != 1) {
    throw BrokenJson("one of its settings is missing");
  }
  const c10::IValue* value = node.given[argument][0].operand.if_constant();
  if (!value) {
    throw BrokenJson("one of its settings is not a constant");
  }
  return *value;
}

AutocastSetting autocast_setting(const HigherOrderNode& node) {
  const c10::IValue dtype = constant_at(node, 1);
  const c10::IValue cache = constant_at(node, 3);
  AutocastSetting setting{
      .device = at::Device(constant_at(node, 0).toStringRef()).type(),
      .enabled = constant_at(node, 2).toBool()};
  if (!dtype.isNone()) {
    setting.dtype = dtype.toScalarType();
  }
  if (!cache.isNone()) {
    setting.cache = cache.toBool();
  }
  return setting;
}

// How many arguments of a block's node stand before its operands.
std::optional<std::size_t> setting_count(const std::string& name) {
  if (name == "wrap_with_set_grad_enabled") {
    return 1;  // enabled
  }
  if (name == "wrap_with_autocast") {
    return 4;  // device, dtype, enabled, cache
  }
  if (name == "invoke_subgraph") {
    return 1;  // its name
  }
  return name == "tag_activation_checkpoint" || name == "strict_mode"
      ? std::optional<std::size_t>(0)
      : std::nullopt;
}

std::unique_ptr<Instruction> make_block(
    const std::string& name,
    Origin origin,
    Instructions body,
    const HigherOrderNode& node) {
  if (name == "wrap_with_set_grad_enabled") {
    return std::make_unique<GradModeBlock>(
        std::move(origin), std::move(body), constant_at(node, 0).toBool());
  }
  if (name == "wrap_with_autocast") {
    return std::make_unique<AutocastBlock>(
        std::move(origin), std::move(body), autocast_setting(node));
  }
  return std::make_unique<Block>(std::move(origin), std::move(body));
}

}  // namespace

std::vector<Result> Compiler::define_flat_results(
    const Json& outputs,
    Builder& builder) {
  std::vector<Result> results;
  for (const std::string& name : flat_names(outputs)) {
    results.push_back({.slot = define_slot(name, builder)});
  }
  return results;
}

std::vector<Graph> Compiler::compile_called(
    const std::vector<const Json*>& graphs,
    const std::vector<Value>& inputs,
    const Builder& builder) {
  std::vector<Value> own;
  for (const Value& input : inputs) {
    own.push_back({Operand::of_slot(0), input.origin});
  }
  std::vector<Graph> compiled;
  for (const Json* graph : graphs) {
    compiled.push_back(
        compile_at(*graph, own, builder.depth + 1, builder.open_vmaps()));
  }
  return compiled;
}

std::unique_ptr<Instruction>
Compiler::call_higher_order(const Json& json, Origin origin, Builder& builder) {
  const std::string name = origin.target.substr(higher_order_prefix.size());
  HigherOrderNode node(json, builder.scope);
  const auto graphs = [&](std::size_t first) {
    return compile_called(node.graphs, node.values_from(first), builder);
  };
  const auto operands = [&] { return operands_of(node.values_from(0)); };
  const auto results = [&] {
    return define_flat_results(field(json, "outputs"), builder);
  };
  if (name == "cond") {
    node.expect(2, 2);  // predicate, operands
    return std::make_unique<Conditional>(
        std::move(origin), graphs(1), operands(), results());
  }
  if (name == "while_loop") {
    node.expect(2, 2);  // carried, additional
    return std::make_unique<WhileLoop>(
        std::move(origin),
        graphs(0),
        operands(),
        results(),
        node.given[0].size());
  }
  if (name == "scan" || name == "map_impl") {
    if (name == "map_impl") {
      node.given.insert(node.given.begin(), Values());
    }
    node.expect(1, 3);  // carried, xs, additional
    if (node.given[1].empty()) {
      throw BrokenJson("it goes over nothing");
    }
    return std::make_unique<Scan>(
        std::move(origin),
        graphs(0),
        operands(),
        results(),
        node.given[0].size(),
        node.given[1].size());
  }
  return compile_block(json, std::move(origin), builder);
}

std::unique_ptr<Instruction>
Compiler::compile_block(const Json& json, Origin origin, Builder& builder) {
  const std::string name = origin.target.substr(higher_order_prefix.size());
  const auto settings = setting_count(name);
  if (!settings) {
    throw BrokenJson("this higher-order operator is not known here");
  }
  const HigherOrderNode node(json, builder.scope);
  if (node.graphs.size() != 1 || builder.depth >= deepest_graph) {
    throw BrokenJson(
        node.graphs.size() != 1 ? "it has not one graph"
                                : "graphs are nested too deeply");
  }
  const Values operands = node.values_from(*settings);
  const Json& inputs = list_field(*node.graphs[0], "inputs");
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
  Builder inner{
      builder.graph, scope, body, builder.depth + 1, builder.open_vmaps()};
  compile_nodes(field(*node.graphs[0], "nodes"), inner);

  // Outside, its results have the names that the node gives them.
  Values outputs;
  for (const Json& output : list_field(*node.graphs[0], "outputs")) {
    for (Value& value : read_values(output, scope)) {
      outputs.push_back(std::move(value));
    }
  }
  const auto names = flat_names(field(json, "outputs"));
  if (names.size() != outputs.size()) {
    throw BrokenJson(concat(
        "its graph has ", outputs.size(), " results, the node ", names.size()));
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (!names[i].empty()) {
      builder.scope.define(names[i], std::move(outputs[i]));
    }
  }
  return make_block(name, std::move(origin), std::move(body), node);
}

}  // namespace peft::graph
