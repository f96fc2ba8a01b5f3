// SPDX-License-Identifier: Apache-2.0
#include "hosting/program_layers.h"

#include <algorithm>
#include <set>

#include "hosting/adapted_tensor.h"
#include "hosting/foreign_layer.h"
#include "peft/adapt.h"

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

// What all readers agree on.
WeightUse use_of(const std::vector<WeightRead>& reads, bool& is_read) {
  std::optional<WeightUse> use;
  for (const WeightRead& read : reads) {
    if (read.passes_on) {
      continue;  // what reads the result is in the list too
    }
    const WeightUse next = use_of(read);
    use = !use || *use == next ? next : WeightUse::any;
  }
  is_read = use.has_value();
  return use.value_or(WeightUse::any);
}

// The layer's bias has an entry for each row of `weight`.
bool has_bias_of(const ProgramLayer& layer, const at::Tensor& weight) {
  const auto& members = layer.members();
  return std::any_of(members.begin(), members.end(), [&](const auto& member) {
    return member.name == "bias" && member.read_from->dim() == 1 &&
        member.read_from->size(0) == weight.size(0);
  });
}

// Whether it is a Linear's weight, whatever operators read it: that of a Linear
// that forward calls; or, in a module that it never calls, a matrix with a bias
// that fits. A matrix alone there that nothing reads is most likely one too,
// whose result the exported forward leaves out: adapters on it have no effect,
// but adapters that were trained with it can be loaded.
bool is_linear_weight(
    const ProgramLayer& layer,
    const ProgramLayer::Member& member) {
  if (member.name != "weight" || member.is_buffer ||
      member.read_from->dim() != 2) {
    return false;
  }
  return layer.type() == "Linear" ||
      (layer.type() == "Module" &&
       (has_bias_of(layer, *member.read_from) || member.reads.empty()));
}

// nullptr when the layer computes no weight, or `base` is another's.
const ProgramLayer::Member* computed_member(
    const torch::nn::Module& module,
    const at::Tensor& base) {
  const ProgramLayer* layer = as_program_layer(module);
  if (!layer) {
    return nullptr;
  }
  for (const auto& member : layer->members()) {
    if (member.compute && base_weight(*member.read_from).is_same(base)) {
      return &member;
    }
  }
  return nullptr;
}

// Whether what the layer computes is the one weight that operators multiply by.
bool computes_its_weight(const ProgramLayer& layer) {
  bool computes = false;
  for (const auto& member : layer.members()) {
    bool is_read = false;
    const WeightUse use = use_of(member.reads, is_read);
    computes |= member.compute != nullptr;
    if (!member.compute && is_read && use != WeightUse::any) {
      return false;
    }
  }
  return computes;
}

// PEFT makes the factors of a convolution of the layer's own class. Where that
// computes its weight in forward (a standardised convolution), it computes
// theirs, in a way that a program does not tell.
bool may_compute(const ProgramLayer& layer, WeightUse use) {
  return use != WeightUse::any &&
      (use != WeightUse::convolution || layer.is_of_torch());
}

// As PEFT's "all-linear", which goes by the class: a parametrization makes a
// subclass of it, and old hooks leave it as it is.
bool is_linear_class(const std::string& type) {
  return type == "Linear" || type == "ParametrizedLinear" || type == "Conv1D" ||
      type == "ParametrizedConv1D";
}

}  // namespace

bool is_computed(const torch::nn::Module& layer, const at::Tensor& base) {
  return computed_member(layer, base) != nullptr;
}

void fill_computed(const torch::nn::Module& layer, const at::Tensor& base) {
  if (const auto* member = computed_member(layer, base)) {
    at::Tensor filled = base;
    filled.set_data(member->compute().to(base.options()));
  }
}

at::Tensor stand_on_value(const at::Tensor& standing, const at::Tensor& value) {
  const AdaptedTensor* adapted = as_adapted(standing);
  return adapted ? make_adapted_tensor(
                       adapted->weight()->on(plain(value)), adapted->owner())
                 : value;
}

const ProgramLayer* as_program_layer(const torch::nn::Module& module) {
  return dynamic_cast<const ProgramLayer*>(&module);
}

KnownLayer know_program_layer(const ProgramLayer& layer) {
  std::vector<ForeignMember> members;
  bool linear = false;
  const bool computes = computes_its_weight(layer);
  for (const auto& member : layer.members()) {
    ForeignMember known{.name = member.name, .tensor = member.read_from};
    bool is_read = false;
    known.use = use_of(member.reads, is_read);
    known.takes_adapters = is_read && !member.is_buffer &&
        (!member.compute || (computes && may_compute(layer, known.use)));
    linear |= is_read && known.use == WeightUse::linear;
    if (!computes && is_linear_weight(layer, member)) {
      known.use = WeightUse::linear;
      known.takes_adapters = true;
      linear |= is_read || has_bias_of(layer, *member.read_from);
    }
    if (!member.reads.empty()) {
      known.groups = member.reads.front().groups;
    }
    members.push_back(std::move(known));
  }
  // A module whose weight is read without a call of its own has no type.
  const bool unnamed = layer.type() == "Module";
  KnownLayer known =
      know_foreign_layer(unnamed && linear ? "Linear" : layer.type(), members);
  known.linear &= linear || !unnamed;
  known.linear &= !computes || is_linear_class(layer.type());
  return known;
}

}  // namespace peft::detail
