// SPDX-License-Identifier: Apache-2.0
#include "hosting/program_layers.h"

#include <set>

#include "hosting/foreign_layer.h"

namespace peft::detail {
namespace {

using graph::ProgramLayer;
using graph::WeightRead;

// Products whose second factor is the weight.
bool is_product(const WeightRead& read) {
  static const std::set<std::pair<std::string, std::string>> products = {
      {"aten::addmm", "mat2"}, {"aten::mm", "mat2"}, {"aten::matmul", "other"}};
  return products.contains({read.op, read.argument});
}

bool is_convolution(const WeightRead& read) {
  static const std::set<std::string> convolutions = {
      "aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::convolution"};
  return convolutions.contains(read.op) && read.argument == "weight";
}

WeightUse use_of(const WeightRead& read) {
  if (read.op == "aten::linear" && read.argument == "weight") {
    return read.transposed ? WeightUse::linear_transposed : WeightUse::linear;
  }
  if (is_product(read)) {
    return read.transposed ? WeightUse::linear : WeightUse::linear_transposed;
  }
  if (read.transposed) {
    return WeightUse::any;
  }
  if (read.op == "aten::embedding" && read.argument == "weight") {
    return WeightUse::embedding;
  }
  return is_convolution(read) ? WeightUse::convolution : WeightUse::any;
}

// Whether the transposition itself is the reading operator.
bool only_turns(const WeightRead& read) {
  static const std::set<std::string> turns = {
      "aten::t", "aten::transpose", "aten::permute", "aten::numpy_T"};
  return turns.contains(read.op);
}

// What all readers agree on.
WeightUse use_of(const std::vector<WeightRead>& reads, bool& is_read) {
  std::optional<WeightUse> use;
  for (const WeightRead& read : reads) {
    if (only_turns(read)) {
      continue;  // what reads the transpose is in the list too
    }
    const WeightUse next = use_of(read);
    use = !use || *use == next ? next : WeightUse::any;
  }
  is_read = use.has_value();
  return use.value_or(WeightUse::any);
}

}  // namespace

const ProgramLayer* as_program_layer(const torch::nn::Module& module) {
  return dynamic_cast<const ProgramLayer*>(&module);
}

KnownLayer know_program_layer(const ProgramLayer& layer) {
  std::vector<ForeignMember> members;
  bool linear = false;
  for (const auto& member : layer.members()) {
    ForeignMember known{.name = member.name, .tensor = member.read_from};
    bool is_read = false;
    known.use = use_of(member.reads, is_read);
    known.takes_adapters = is_read && !member.is_buffer;
    if (!member.reads.empty()) {
      known.groups = member.reads.front().groups;
    }
    linear |= known.use == WeightUse::linear;
    members.push_back(std::move(known));
  }
  // A module whose weight is read without a call of its own has no type.
  const bool unnamed = layer.type() == "Module" && linear;
  return know_foreign_layer(unnamed ? "Linear" : layer.type(), members);
}

}  // namespace peft::detail
