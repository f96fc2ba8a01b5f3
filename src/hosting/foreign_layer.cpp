// SPDX-License-Identifier: Apache-2.0
#include "hosting/foreign_layer.h"

namespace peft::detail {
namespace {

bool fits(const at::Tensor& weight, WeightUse use) {
  if (!weight.is_floating_point()) {
    return false;
  }
  switch (use) {
    case WeightUse::convolution:
      return weight.dim() >= 3;
    case WeightUse::any:
      return weight.dim() == 2 || weight.dim() == 3;
    default:
      return weight.dim() == 2;
  }
}

// "q_proj_weight" of an attention layer: its adapters live below "q_proj".
std::string attention_holder(const std::string& name) {
  constexpr std::string_view ending = "_weight";
  const bool separate = name == "q_proj_weight" || name == "k_proj_weight" ||
      name == "v_proj_weight";
  return separate ? name.substr(0, name.size() - ending.size()) : "";
}

KnownLayer know_attention(
    const std::string& kind,
    const std::vector<ForeignMember>& members) {
  KnownLayer known{.kind = kind};
  for (const ForeignMember& member : members) {
    TensorMember tensor{member.name, member.tensor};
    if (member.name.ends_with("proj_weight")) {
      tensor.layout = WeightLayout::matrix(*member.tensor);
      tensor.holder = attention_holder(member.name);
    }
    known.members.push_back(std::move(tensor));
  }
  known.companions = {"out_proj"};
  return known;
}

// As in a torch::nn model, where these layers have no form for adapters.
bool takes_adapters(const std::string& kind) {
  return kind != "EmbeddingBag" && kind != "Bilinear" && kind != "PReLU" &&
      !kind.starts_with("ConvTranspose");
}

bool is_linear_use(WeightUse use) {
  return use == WeightUse::linear || use == WeightUse::linear_transposed;
}

}  // namespace

KnownLayer know_foreign_layer(
    const std::string& kind,
    const std::vector<ForeignMember>& members) {
  if (kind == "MultiheadAttention") {
    return know_attention(kind, members);
  }
  KnownLayer known{.kind = kind};
  std::size_t weights = 0;
  for (const ForeignMember& member : members) {
    TensorMember tensor{member.name, member.tensor};
    if (member.takes_adapters && takes_adapters(kind) &&
        fits(*member.tensor, member.use)) {
      tensor.layout = layout_of(*member.tensor, member.use, member.groups);
      tensor.bare = member.use == WeightUse::any;
      known.linear |= member.name == "weight" && is_linear_use(member.use);
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
  return known;
}

}  // namespace peft::detail
