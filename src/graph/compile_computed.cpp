// SPDX-License-Identifier: Apache-2.0
// The part of the compiler for weights that the graph computes: see
// computed_weight.h.
#include "graph/compiler.h"
#include "graph/node_text.h"
#include "graph/serialized_enums.h"

namespace peft::graph {
namespace {

// The argument of an operator that is a layer's weight.
std::optional<std::size_t> weight_argument(const c10::FunctionSchema& schema) {
  static const std::map<std::string, std::string> names = {
      {"aten::linear", "weight"},
      {"aten::addmm", "mat2"},
      {"aten::mm", "mat2"},
      {"aten::conv1d", "weight"},
      {"aten::conv2d", "weight"},
      {"aten::conv3d", "weight"},
      {"aten::convolution", "weight"}};
  const auto found = names.find(schema.name());
  const auto index = found == names.end()
      ? std::nullopt
      : schema.argumentIndexWithName(found->second);
  return index ? std::optional(static_cast<std::size_t>(*index)) : std::nullopt;
}

// The name of the tensor that `node` is given for an argument; "" for another
// kind of value.
std::string tensor_given(const Json& node, const std::string& argument) {
  for (const Json& input : list_field(node, "inputs")) {
    if (as_text(field(input, "name")) == argument) {
      return defined_name(field(input, "arg"));
    }
  }
  return "";
}

// The sizes of a tensor, none of them an expression.
std::optional<std::vector<std::int64_t>> fixed_sizes(const Json& meta) {
  std::vector<std::int64_t> sizes;
  for (const Json& size : list_field(meta, "sizes")) {
    const Json* number = optional_field(size, "as_int");
    if (!number) {
      return std::nullopt;
    }
    sizes.push_back(as_integer(*number));
  }
  return sizes;
}

// Such as torch.no_grad, in which a spectral norm looks for its direction.
bool is_block(const std::string& target) {
  return target.starts_with(higher_order_prefix) &&
      target.substr(higher_order_prefix.size()).starts_with("wrap_with_");
}

bool are_alike(const WeightRead& a, const WeightRead& b) {
  return a.op == b.op && a.argument == b.argument && a.groups == b.groups;
}

}  // namespace

bool is_from_weights(const Json& node, const Scope& scope) {
  for (const Json& input : list_field(node, "inputs")) {
    const Json& argument = field(input, "arg");
    if (as_union(argument).first == "as_graph") {
      if (!is_block(as_text(field(node, "target")))) {
        return false;
      }
      continue;  // it reads what the node is given
    }
    for (const Value& value : read_values(argument, scope)) {
      const bool is_fixed = value.operand.kind == Operand::Kind::constant ||
          value.operand.kind == Operand::Kind::weight || value.from_weights;
      if (!is_fixed) {
        return false;
      }
    }
  }
  return true;
}

// Puts a StandIn before an operator that reads a computed weight.
void Compiler::stand_in_for_computed(
    const c10::FunctionSchema& schema,
    const Json& node,
    const Origin& origin,
    std::vector<Operand>& operands,
    Builder& builder) {
  const auto argument = weight_argument(schema);
  if (!argument || !builder.is_program() || !builder.tensor_values ||
      origin.module_path.empty() ||
      operands[*argument].kind != Operand::Kind::slot) {
    return;
  }
  const std::string name =
      tensor_given(node, schema.arguments()[*argument].name());
  const Json* meta = name.empty()
      ? nullptr
      : optional_field(*builder.tensor_values, name.c_str());
  if (!meta) {
    return;
  }
  const Value& value = builder.scope.get(name);
  const auto sizes = fixed_sizes(*meta);
  if (!value.from_weights || value.origin || !sizes ||
      is_from_weights(node, builder.scope)) {
    return;
  }
  const auto dtype = to_scalar_type(as_integer(field(*meta, "dtype")));
  if (!dtype || !at::isFloatingType(*dtype)) {
    return;
  }
  const auto number = note_computed(
      origin.module_path,
      {.number =
           static_cast<std::uint32_t>(weights_ + findings_.computed.size()),
       .path = origin.module_path,
       .sizes = *sizes,
       .dtype = *dtype,
       .reads = {read_of(schema, *argument, {}, operands)},
       .slot = operands[*argument].index,
       .before = builder.graph.instructions.size()});
  const auto slot = static_cast<Slot>(builder.graph.slots++);
  builder.add(std::make_unique<StandIn>(
      origin, operands[*argument], number, Result{.slot = slot}));
  operands[*argument] = Operand::of_slot(slot);
}

// A layer that is called twice computes its weight twice.
std::uint32_t Compiler::note_computed(
    const std::string& path,
    ComputedWeight computed) {
  const auto [place, is_first] =
      findings_.computed.try_emplace(path, std::move(computed));
  ComputedWeight& known = place->second;
  if (!is_first) {
    known.is_ambiguous |= known.sizes != computed.sizes ||
        known.dtype != computed.dtype ||
        !are_alike(known.reads.front(), computed.reads.front());
  }
  return known.number;
}

}  // namespace peft::graph
