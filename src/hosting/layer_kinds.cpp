// SPDX-License-Identifier: Apache-2.0
#include "hosting/layer_kinds.h"

#include <algorithm>
#include <mutex>
#include <shared_mutex>

#include <c10/util/Type.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/instancenorm.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/modules/rnn.h>

#include "hosting/program_layers.h"
#include "hosting/script_layer.h"
#include "peft/layer_kinds.h"

namespace peft {
namespace detail {
namespace {

namespace nn = torch::nn;
using Members = std::vector<TensorMember>;

// What most layers have; undefined tensors (no bias) are dropped later.
template <class Layer>
Members weight_and_bias(Layer& layer) {
  return {{"weight", &layer.weight}, {"bias", &layer.bias}};
}

template <class Layer>
Members normalisation(Layer& layer) {
  Members members = weight_and_bias(layer);
  members.push_back({"running_mean", &layer.running_mean});
  members.push_back({"running_var", &layer.running_var});
  members.push_back({"num_batches_tracked", &layer.num_batches_tracked});
  return members;
}

template <class Layer>
Members recurrent_cell(Layer& layer) {
  Members members = {
      {"weight_ih", &layer.weight_ih},
      {"weight_hh", &layer.weight_hh},
      {"bias_ih", &layer.bias_ih},
      {"bias_hh", &layer.bias_hh}};
  for (std::size_t i : {0, 1}) {
    members[i].layout = WeightLayout::matrix(*members[i].tensor);
    members[i].bare = true;
  }
  return members;
}

// What RNN, LSTM and GRU read in forward is a protected list, whose place a
// derived class may name.
template <class Layer>
struct Recurrent : Layer {
  static Members members(Layer& layer) {
    Members members;
    const auto& names = layer.*(&Recurrent::flat_weights_names_);
    auto& tensors = layer.*(&Recurrent::flat_weights_);
    for (std::size_t i = 0; i < std::min(names.size(), tensors.size()); ++i) {
      TensorMember member{names[i], &tensors[i]};
      member.moves = true;
      if (names[i].starts_with("weight")) {
        member.layout = WeightLayout::matrix(tensors[i]);
        member.bare = true;
      }
      members.push_back(std::move(member));
    }
    return members;
  }
};

template <class Layer>
Members convolution(Layer& layer) {
  Members members = weight_and_bias(layer);
  members[0].layout =
      WeightLayout::kernel(layer.weight, layer.options.groups());
  return members;
}

Members linear(nn::LinearImpl& layer) {
  Members members = weight_and_bias(layer);
  members[0].layout = WeightLayout::matrix(layer.weight);
  return members;
}

Members embedding(nn::EmbeddingImpl& layer) {
  return {{"weight", &layer.weight, WeightLayout::table(layer.weight)}};
}

Members attention(nn::MultiheadAttentionImpl& layer) {
  Members members;
  const auto add_weight =
      [&](const char* name, at::Tensor& weight, const char* holder) {
        if (weight.defined()) {
          members.push_back(
              {name, &weight, WeightLayout::matrix(weight), false, holder});
        }
      };
  add_weight("in_proj_weight", layer.in_proj_weight, "");
  add_weight("q_proj_weight", layer.q_proj_weight, "q_proj");
  add_weight("k_proj_weight", layer.k_proj_weight, "k_proj");
  add_weight("v_proj_weight", layer.v_proj_weight, "v_proj");
  members.push_back({"in_proj_bias", &layer.in_proj_bias});
  members.push_back({"bias_k", &layer.bias_k});
  members.push_back({"bias_v", &layer.bias_v});
  return members;
}

template <class Layer>
Members weight_only(Layer& layer) {
  return {{"weight", &layer.weight}};
}

struct Kind {
  std::string name;
  std::function<std::optional<Members>(nn::Module&)> members;
  bool linear = false;
  std::vector<std::string> companions = {};
};

template <class Layer>
Kind kind(const char* name, Members (*members)(Layer&)) {
  return {name, [members](nn::Module& module) -> std::optional<Members> {
            auto* layer = dynamic_cast<Layer*>(&module);
            return layer ? std::optional(members(*layer)) : std::nullopt;
          }};
}

std::vector<Kind> make_built_in_kinds() {
  std::vector<Kind> kinds = {
      kind("Linear", linear),
      kind("Embedding", embedding),
      kind("Conv1d", convolution<nn::Conv1dImpl>),
      kind("Conv2d", convolution<nn::Conv2dImpl>),
      kind("Conv3d", convolution<nn::Conv3dImpl>),
      kind("MultiheadAttention", attention),
      // Each gate's rows in one matrix; read inside one operator.
      kind("RNN", Recurrent<nn::RNNImpl>::members),
      kind("LSTM", Recurrent<nn::LSTMImpl>::members),
      kind("GRU", Recurrent<nn::GRUImpl>::members),
      kind("RNNCell", recurrent_cell<nn::RNNCellImpl>),
      kind("LSTMCell", recurrent_cell<nn::LSTMCellImpl>),
      kind("GRUCell", recurrent_cell<nn::GRUCellImpl>),
      // Below: no adapters, but modules_to_save may train them whole.
      kind("LayerNorm", weight_and_bias<nn::LayerNormImpl>),
      kind("GroupNorm", weight_and_bias<nn::GroupNormImpl>),
      kind("BatchNorm1d", normalisation<nn::BatchNorm1dImpl>),
      kind("BatchNorm2d", normalisation<nn::BatchNorm2dImpl>),
      kind("BatchNorm3d", normalisation<nn::BatchNorm3dImpl>),
      kind("InstanceNorm1d", normalisation<nn::InstanceNorm1dImpl>),
      kind("InstanceNorm2d", normalisation<nn::InstanceNorm2dImpl>),
      kind("InstanceNorm3d", normalisation<nn::InstanceNorm3dImpl>),
      kind("ConvTranspose1d", weight_and_bias<nn::ConvTranspose1dImpl>),
      kind("ConvTranspose2d", weight_and_bias<nn::ConvTranspose2dImpl>),
      kind("ConvTranspose3d", weight_and_bias<nn::ConvTranspose3dImpl>),
      kind("Bilinear", weight_and_bias<nn::BilinearImpl>),
      kind("EmbeddingBag", weight_only<nn::EmbeddingBagImpl>),
      kind("PReLU", weight_only<nn::PReLUImpl>),
  };
  kinds[0].linear = true;
  kinds[5].companions = {"out_proj"};
  return kinds;
}

const std::vector<Kind>& built_in_kinds() {
  static const std::vector<Kind> kinds = make_built_in_kinds();
  return kinds;
}

struct UserKind {
  std::string name;
  MembersOf members_of;
};

std::shared_mutex user_kinds_mutex;
std::vector<UserKind>& user_kinds() {
  static std::vector<UserKind> kinds;
  return kinds;
}

std::string short_name(std::string name) {
  name = name.substr(0, name.find('<'));  // its own namespaces, not arguments'
  const auto colon = name.rfind("::");
  if (colon != std::string::npos) {
    name = name.substr(colon + 2);
  }
  if (name.size() > 4 && name.ends_with("Impl")) {
    name.resize(name.size() - 4);
  }
  return name;
}

bool is_linear_use(WeightUse use) {
  return use == WeightUse::linear || use == WeightUse::linear_transposed;
}

// A parameter whose input no operator tells: PEFT's target_parameters.
bool is_bare(const MemberOf& member) {
  return member.use == WeightUse::any ||
      (is_linear_use(member.use) && member.tensor->dim() != 2);
}

KnownLayer from_user_kind(
    const std::string& name,
    std::vector<MemberOf> members) {
  std::erase_if(members, [](const auto& m) { return !m.tensor->defined(); });
  KnownLayer known{.kind = name};
  for (const MemberOf& member : members) {
    known.linear = known.linear || is_linear_use(member.use);
    const bool bare = is_bare(member);
    // Several weights of one layer keep their adapters apart.
    const bool shares = !bare && members.size() > 1;
    known.members.push_back(
        {member.name,
         member.tensor,
         layout_of(*member.tensor, member.use, member.groups),
         bare,
         shares ? member.name : ""});
  }
  return known;
}

}  // namespace

WeightLayout
layout_of(const at::Tensor& weight, WeightUse use, std::int64_t groups) {
  switch (use) {
    case WeightUse::linear:
      return weight.dim() == 2 ? WeightLayout::matrix(weight)
                               : WeightLayout::bare(weight);
    case WeightUse::linear_transposed: {
      if (weight.dim() == 2) {
        return WeightLayout::matrix(weight, /*inputs_first=*/true);
      }
      WeightLayout layout = WeightLayout::bare(weight);
      std::swap(layout.inputs, layout.outputs);
      layout.inputs_first = true;
      return layout;
    }
    case WeightUse::embedding:
      return weight.dim() == 2 ? WeightLayout::table(weight) : WeightLayout{};
    case WeightUse::convolution:
      return weight.dim() >= 3 ? WeightLayout::kernel(weight, groups)
                               : WeightLayout{};
    case WeightUse::any:
      return WeightLayout::bare(weight);
  }
  return {};
}

void register_layer_kind(const char* type_name, MembersOf members_of) {
  const std::unique_lock lock(user_kinds_mutex);
  user_kinds().insert(
      user_kinds().begin(),
      {short_name(c10::demangle(type_name)), std::move(members_of)});
}

std::optional<KnownLayer> know_layer(nn::Module& layer) {
  if (const auto* program_layer = as_program_layer(layer)) {
    return know_program_layer(*program_layer);
  }
  if (const auto* script_layer = as_script_layer(layer)) {
    return know_script_layer(*script_layer);
  }
  {
    const std::shared_lock lock(user_kinds_mutex);
    for (const UserKind& kind : user_kinds()) {
      auto members = kind.members_of(layer);
      if (!members.empty()) {
        return from_user_kind(kind.name, std::move(members));
      }
    }
  }
  for (const Kind& kind : built_in_kinds()) {
    if (auto members = kind.members(layer)) {
      std::erase_if(*members, [](const TensorMember& member) {
        return !member.tensor->defined();
      });
      return KnownLayer{
          kind.name, kind.linear, std::move(*members), kind.companions};
    }
  }
  return std::nullopt;
}

std::string type_name(const nn::Module& module) {
  if (const auto* program_layer = as_program_layer(module)) {
    return program_layer->type();
  }
  if (const auto* script_layer = as_script_layer(module)) {
    return script_layer->type();
  }
  return short_name(c10::demangle(typeid(module).name()));
}

bool has_groups_of_its_own(const torch::nn::Module& layer) {
  return layer.as<nn::Conv1d>() || layer.as<nn::Conv2d>() ||
      layer.as<nn::Conv3d>();
}

void join_groups(torch::nn::Module& layer) {
  if (auto* conv1 = layer.as<nn::Conv1d>()) {
    conv1->options.groups(1);
  } else if (auto* conv2 = layer.as<nn::Conv2d>()) {
    conv2->options.groups(1);
  } else if (auto* conv3 = layer.as<nn::Conv3d>()) {
    conv3->options.groups(1);
  }
}

void set_rows(torch::nn::Module& layer, std::int64_t rows) {
  if (auto* table = layer.as<nn::Embedding>()) {
    table->options.num_embeddings(rows);
  } else if (auto* linear = layer.as<nn::Linear>()) {
    linear->options.out_features(rows);
  }
}

}  // namespace detail
}  // namespace peft
