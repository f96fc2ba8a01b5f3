// SPDX-License-Identifier: Apache-2.0
// trainable_token_indices: embeddings of which some rows are trained.
#include <algorithm>

#include "base/text.h"
#include "matching/name_pattern.h"
#include "methods/token_rows.h"
#include "model/plan_parts.h"

namespace peft::detail {
namespace {

constexpr const char* field = "trainable_token_indices";

// What libraries call the table that a model looks its input tokens up in.
constexpr const char* input_names[] =
    {"embed_tokens", "word_embeddings", "wte", "tok_embeddings", "shared"};

std::vector<std::size_t> tables(const std::vector<HostedLayer>& layers) {
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    for (const HostedTensor& tensor : layers[i].tensors) {
      if (tensor.layout && tensor.layout->form == WeightLayout::Form::table) {
        found.push_back(i);
      }
    }
  }
  return found;
}

std::vector<std::size_t> layers_called(
    const std::vector<HostedLayer>& layers,
    const std::string& name) {
  std::vector<std::size_t> found;
  for (std::size_t i = 1; i < layers.size(); ++i) {
    const auto& others = layers[i].others;
    const auto is_called = [&](const std::string& path) {
      return has_path_suffix(path, name);
    };
    if (is_called(layers[i].path) ||
        std::any_of(others.begin(), others.end(), is_called)) {
      found.push_back(i);
    }
  }
  return found;
}

// The embedding that a list of tokens without a name is for.
std::vector<std::size_t> input_embedding(Planning& planning) {
  const auto all = tables(planning.layers);
  if (all.size() == 1) {
    return all;
  }
  for (const char* name : input_names) {
    auto called = layers_called(planning.layers, name);
    std::erase_if(called, [&](std::size_t i) {
      return std::find(all.begin(), all.end(), i) == all.end();
    });
    if (!called.empty()) {
      return {called.front()};  // the others are tied to it, or another model's
    }
  }
  std::vector<std::string> paths;
  for (const std::size_t i : all) {
    paths.push_back(planning.layers[i].path);
  }
  planning.mistakes.add(
      ErrorKind::target,
      concat(
          field,
          ": the model has ",
          all.empty() ? "no embedding"
                      : concat("several embeddings, ", list_names(paths)),
          "; name the layer, as in {{\"embed_tokens\", {1, 3}}}"));
  return {};
}

// Whether target_modules or modules_to_save have the weight already.
bool is_taken(
    Planning& planning,
    const HostedLayer& layer,
    const HostedTensor& tensor) {
  const std::string path = join_path(layer.path, tensor.name);
  for (const PlannedTarget& planned : planning.plan.targets) {
    const Target& target = planned.target;
    if (join_path(target.layer_path, target.tensor_name) != path) {
      continue;
    }
    planning.mistakes.add(
        ErrorKind::config,
        target.role == Role::token_rows
            ? concat(field, " names '", layer.path, "' twice")
            : concat(
                  "'",
                  layer.path,
                  "' is chosen by ",
                  field,
                  " and by ",
                  target.role == Role::saved_copy ? "modules_to_save"
                                                  : "target_modules",
                  "; choose one"));
    return true;
  }
  return false;
}

void plan_rows(
    Planning& planning,
    const HostedLayer& layer,
    const std::vector<std::int64_t>& tokens) {
  const auto weight = std::find_if(
      layer.tensors.begin(), layer.tensors.end(), [](const HostedTensor& t) {
        return t.name == "weight" && t.layout;
      });
  if (weight == layer.tensors.end()) {
    planning.mistakes.add(
        ErrorKind::target,
        concat(
            field,
            ": '",
            layer.path,
            "' is a ",
            layer.type,
            ", which has no rows of tokens; name an embedding"));
    return;
  }
  if (is_taken(planning, layer, *weight)) {
    return;
  }
  const std::string where = join_path(layer.path, weight->name);
  auto method = make_token_rows(tokens);
  method->check(*weight->layout, where, planning.mistakes);
  check_ownership(planning, *weight, where);
  planning.plan.targets.push_back(
      {*weight,
       Target{
           .layer_path = layer.path,
           .layer_type = layer.type,
           .tensor_name = weight->name,
           .file_prefix = layer.path + ".token_adapter",
           .pattern_path = layer.path,
           .role = Role::token_rows,
           .layer = layer.seat,
           .holders = {"token_adapter"},
           .base = weight->base},
       std::move(method)});
}

// Whether a layer chosen before has the same weight and rows: then it acts here
// as well. With other rows ensure_weight_tying cannot be.
bool is_covered(
    Planning& planning,
    const std::vector<std::pair<std::size_t, std::vector<std::int64_t>>>&
        before,
    std::size_t layer,
    const std::vector<std::int64_t>& tokens) {
  const auto weight_of = [&](std::size_t i) {
    for (const HostedTensor& tensor : planning.layers[i].tensors) {
      if (tensor.name == "weight") {
        return tensor.base;
      }
    }
    return at::Tensor();
  };
  const at::Tensor weight = weight_of(layer);
  for (const auto& [i, rows] : before) {
    if (i == layer || !weight.defined() || !weight_of(i).is_same(weight)) {
      continue;
    }
    if (rows == tokens) {
      return true;
    }
    if (planning.rules.ensure_weight_tying) {
      planning.mistakes.add(
          ErrorKind::config,
          concat(
              field,
              ": '",
              planning.layers[i].path,
              "' and '",
              planning.layers[layer].path,
              "' share their weight and are given different rows; give both "
              "the same, or set ensure_weight_tying = false"));
    }
  }
  return false;
}

}  // namespace

void plan_token_rows(Planning& planning) {
  const TokenChoice& choice = planning.rules.trainable_token_indices;
  if (choice.is_list() && !choice.tokens().empty()) {
    for (const std::size_t i : input_embedding(planning)) {
      plan_rows(planning, planning.layers[i], choice.tokens());
    }
  }
  if (!choice.is_by_layer()) {
    return;
  }
  std::vector<std::pair<std::size_t, std::vector<std::int64_t>>> chosen;
  for (const auto& [name, tokens] : choice.by_layer()) {
    const auto called = layers_called(planning.layers, name);
    if (called.empty()) {
      planning.mistakes.add(
          ErrorKind::target,
          concat(field, ": the model has no layer '", name, "'"));
    }
    for (const std::size_t i : called) {
      if (!is_covered(planning, chosen, i, tokens)) {
        chosen.emplace_back(i, tokens);
      }
    }
  }
  for (const auto& [i, tokens] : chosen) {
    plan_rows(planning, planning.layers[i], tokens);
  }
}

}  // namespace peft::detail
