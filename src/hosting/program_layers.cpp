// SPDX-License-Identifier: Apache-2.0
#include "hosting/program_layers.h"

#include <algorithm>
#include <set>

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

bool takes_adapters(const at::Tensor& weight, WeightUse use) {
  if (!weight.is_floating_point()) {
    return false;
  }
  const auto dims = weight.dim();
  switch (use) {
    case WeightUse::convolution:
      return dims >= 3;
    case WeightUse::any:
      return dims == 2 || dims == 3;
    default:
      return dims == 2;
  }
}

// "q_proj_weight" of an attention layer: its adapters live below "q_proj".
std::string attention_holder(const std::string& name) {
  constexpr std::string_view ending = "_weight";
  const bool separate = name == "q_proj_weight" || name == "k_proj_weight" ||
      name == "v_proj_weight";
  return separate ? name.substr(0, name.size() - ending.size()) : "";
}

void know_attention(const ProgramLayer& layer, KnownLayer& known) {
  for (const auto& member : layer.members()) {
    TensorMember tensor{member.name, member.read_from};
    if (member.name.ends_with("proj_weight")) {
      tensor.layout = WeightLayout::matrix(*member.read_from);
      tensor.holder = attention_holder(member.name);
    }
    known.members.push_back(std::move(tensor));
  }
  known.companions = {"out_proj"};
}

}  // namespace

const ProgramLayer* as_program_layer(const torch::nn::Module& module) {
  return dynamic_cast<const ProgramLayer*>(&module);
}

KnownLayer know_program_layer(const ProgramLayer& layer) {
  KnownLayer known{.kind = layer.type()};
  if (known.kind == "MultiheadAttention") {
    know_attention(layer, known);
    return known;
  }
  std::size_t weights = 0;
  for (const auto& member : layer.members()) {
    TensorMember tensor{member.name, member.read_from};
    bool is_read = false;
    const WeightUse use = use_of(member.reads, is_read);
    if (!member.is_buffer && is_read &&
        takes_adapters(*member.read_from, use)) {
      tensor.layout = layout_of(
          *member.read_from,
          use,
          member.reads.empty() ? 1 : member.reads.front().groups);
      tensor.bare = use == WeightUse::any;
      known.linear |= member.name == "weight" &&
          (use == WeightUse::linear || use == WeightUse::linear_transposed);
      weights += tensor.bare ? 0 : 1;
    }
    known.members.push_back(std::move(tensor));
  }
  if (weights > 1) {  // several weights of one layer keep their adapters apart
    for (TensorMember& member : known.members) {
      if (member.layout && !member.bare) {
        member.holder = member.name;
      }
    }
  }
  if (known.linear && known.kind == "Module") {
    known.kind = "Linear";  // read without its own module's call
  }
  return known;
}

}  // namespace peft::detail
