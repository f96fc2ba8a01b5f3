// SPDX-License-Identifier: Apache-2.0
// The part of the compiler for torch.vmap. In a graph it is a node that opens a
// level, nodes that take tensors into it and out again, and one that closes it:
// what stands between the two becomes a block.
#include "base/text.h"
#include "graph/compiler.h"
#include "graph/node_text.h"
#include "graph/operator_call.h"

namespace peft::graph {
namespace {

using detail::concat;

// `node` with the names of the arguments that it gives by position.
Json with_names(const Json& node, const c10::FunctionSchema& schema) {
  Json named = node;
  Json& inputs = named.at("inputs");
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (as_text(field(inputs[i], "name")).empty()) {
      if (i >= schema.arguments().size()) {
        throw BrokenJson(concat("it has ", inputs.size(), " arguments"));
      }
      inputs[i]["name"] = schema.arguments()[i].name();
    }
  }
  check_given_once(named);
  return named;
}

}  // namespace

std::unique_ptr<Instruction>
Compiler::call_functorch(const Json& node, Origin origin, Builder& builder) {
  const std::string name = origin.target.substr(functorch_prefix.size());
  if (name == "lazy_load_decompositions") {
    return nullptr;  // Python's own; libtorch runs a loop where it lacks a rule
  }
  if (name == "_vmap_increment_nesting") {
    open_vmap(node, std::move(origin), builder);
    return nullptr;
  }
  if (name == "_vmap_decrement_nesting") {
    return close_vmap(builder);
  }
  const BatchOperator* op = find_batch_operator(name);
  if (!op) {
    throw BrokenJson(
        "of torch.func's transforms only torch.vmap can run here; export "
        "without it");
  }
  auto operands = read_operands(
      with_names(node, op->schema), op->schema, origin, builder.scope);
  const auto argument = *op->schema.argumentIndexWithName("level");
  const c10::IValue* level =
      operands[static_cast<std::size_t>(argument)].if_constant();
  const auto open = static_cast<std::int64_t>(builder.open_vmaps());
  if (!level || !level->isInt() || level->toInt() < 1 ||
      level->toInt() > open) {
    throw BrokenJson(concat(
        "its level is not one of the ",
        open,
        " that torch.vmap has opened before it"));
  }
  operands[static_cast<std::size_t>(argument)] =
      Operand::of_constant(open - level->toInt());
  auto results = define_results(field(node, "outputs"), builder);
  if (results.size() != 1) {
    throw BrokenJson(concat("it has ", results.size(), " results"));
  }
  return std::make_unique<FunctionCall>(
      std::move(origin), op->run, std::move(operands), std::move(results[0]));
}

// (batch_size, randomness)
void Compiler::open_vmap(const Json& node, Origin origin, Builder& builder) {
  builder.vmaps.push_back({.origin = std::move(origin)});
  OpenVmap& opened = builder.vmaps.back();
  const Json& inputs = list_field(node, "inputs");
  if (inputs.size() != 2) {
    throw BrokenJson(concat("it has ", inputs.size(), " arguments"));
  }
  opened.size = read_argument(
      field(inputs[0], "arg"), c10::IntType::get(), builder.scope);
  const Operand word =
      read_argument(field(inputs[1], "arg"), nullptr, builder.scope);
  const c10::IValue* constant = word.if_constant();
  const auto randomness = constant && constant->isString()
      ? to_randomness(constant->toStringRef())
      : std::nullopt;
  if (!randomness) {
    throw BrokenJson(
        "its randomness is not \"error\", \"same\" or \"different\"");
  }
  opened.randomness = *randomness;
}

std::unique_ptr<Instruction> Compiler::close_vmap(Builder& builder) {
  if (builder.vmaps.empty()) {
    throw BrokenJson("it closes a torch.vmap that is not open");
  }
  OpenVmap closed = std::move(builder.vmaps.back());
  builder.vmaps.pop_back();
  return std::make_unique<VmapBlock>(
      std::move(closed.origin),
      std::move(closed.body),
      std::move(closed.size),
      closed.randomness);
}

void Compiler::check_vmaps_closed(const Builder& builder) {
  for (const OpenVmap& open : builder.vmaps) {
    mistakes_.add(concat(
        open.origin.text(), ": the torch.vmap that it opens is never closed"));
  }
}

}  // namespace peft::graph
