// SPDX-License-Identifier: Apache-2.0
#include "model/lora_update.h"

#include <algorithm>
#include <map>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include "base/text.h"
#include "methods/factor_blocks.h"
#include "methods/low_rank_factors.h"
#include "model/adapter_tensors.h"

namespace peft::detail {
namespace {

using Form = WeightLayout::Form;

Application application(const Target& target) {
  static const SquaredNorms norms;
  return {
      target.ground(),
      target.layout,
      target.attachment->parameters,
      norms,
      target.attachment->scale};
}

// What it adds to the layer's bias, or what it adds to outputs beside it.
at::Tensor bias_change(const Target& target, const LowRank* form) {
  const Method& method = *target.attachment->method;
  if (target.bias) {
    const auto [begin, end] = *target.bias_attachment->bias_rows;
    const at::Tensor bias =
        exact(target.bias->base().detach().slice(0, begin, end));
    return method.effective_bias(bias, application(target)) - bias;
  }
  return form && form->bias.defined() ? form->bias.detach() * form->scale
                                      : at::Tensor();
}

// W' - W as matrices whose factors do not meet: see methods/factor_blocks.h.
std::vector<at::Tensor> dense_blocks(const Target& target) {
  const WeightLayout& layout = target.layout;
  const Method& method = *target.attachment->method;
  at::Tensor base = exact(target.ground().detach());
  const std::int64_t groups = layout.groups;
  if (groups > 1 && method.mixes_groups()) {
    base = ungrouped(base, layout);
  }
  at::Tensor change = exact(method.effective(base, application(target))) - base;
  if (layout.form == Form::stack) {
    change = layout.inputs_first ? change.transpose(1, 2) : change;
    return change.unbind(0);
  }
  if (groups > 1) {
    change = method.mixes_groups() ? change : ungrouped(change, layout);
    return change.flatten(1).chunk(groups, 0);
  }
  return {as_matrix(change, layout)};
}

// A and B of a kernel have the window's dimensions.
FactorPair shaped(const FactorPair& pair, const WeightLayout& layout) {
  const FactorShapes shapes = factor_shapes(layout, rank_of(pair, layout));
  return {pair.A.reshape(shapes.A), pair.B.reshape(shapes.B)};
}

std::int64_t chosen_rank(
    const std::vector<Svd>& svds,
    const WeightLayout& layout,
    const RankChoice& choice) {
  if (choice.rank()) {
    return in_whole_groups(*choice.rank(), layout);
  }
  std::int64_t rank = 1;
  for (const Svd& svd : svds) {
    rank = std::max(rank, rank_for_energy(svd.S, *choice.energy()));
  }
  return rank * layout.groups;
}

FactorPair joined(
    const std::vector<Svd>& svds,
    const WeightLayout& layout,
    const RankChoice& choice) {
  const std::int64_t rank = chosen_rank(svds, layout, choice);
  std::vector<FactorPair> blocks;
  for (const Svd& svd : svds) {
    blocks.push_back(factors_of(svd, block_rank(layout, rank)));
  }
  return join_factors(blocks, layout);
}

}  // namespace

std::int64_t rank_of(const FactorPair& factors, const WeightLayout& layout) {
  return factors.A.size(0) / layout.count;
}

std::int64_t in_whole_groups(std::int64_t rank, const WeightLayout& layout) {
  return (rank + layout.groups - 1) / layout.groups * layout.groups;
}

std::optional<LoraUpdate> update_of(const Target& target) {
  const at::NoGradGuard no_grad;
  const CheapForm cheap =
      target.attachment->method->cheap_form(application(target));
  const auto* form = std::get_if<LowRank>(&cheap);
  if (!form) {
    return std::nullopt;
  }
  LoraUpdate update{
      .factors = {exact(form->A.detach()), exact(form->B.detach())},
      .scale = form->scale,
      .is_all = !form->gain.defined(),
      .acts_everywhere = !form->activated};
  if (form->A0.defined()) {
    update.factors = {
        at::cat({update.factors.A, exact(form->A0)}),
        at::cat({update.factors.B, exact(form->B0).neg()}, 1)};
  }
  update.factors = shaped(update.factors, target.layout);
  const at::Tensor bias = bias_change(target, form);
  if (bias.defined()) {
    update.bias = form->scale == 0 ? bias : bias / form->scale;
  }
  return update;
}

LoraUpdate at_rank(
    const LoraUpdate& update,
    const WeightLayout& layout,
    const RankChoice& choice) {
  const at::NoGradGuard no_grad;
  std::vector<Svd> svds;
  for (FactorPair block : split_factors(update.factors, layout)) {
    block.B = block.B * update.scale;
    svds.push_back(svd_of_product(block));
  }
  return {
      .factors = joined(svds, layout, choice),
      .bias = update.bias.defined() ? update.bias * update.scale : update.bias};
}

LoraUpdate update_of_rank(const Target& target, const RankChoice& choice) {
  if (const auto own = update_of(target); own && own->is_all) {
    return at_rank(*own, target.layout, choice);
  }
  const at::NoGradGuard no_grad;
  std::vector<Svd> svds;
  for (const at::Tensor& block : dense_blocks(target)) {
    svds.push_back(svd_of_matrix(block));
  }
  return {
      .factors = joined(svds, target.layout, choice),
      .bias = bias_change(target, nullptr)};
}

void level_ranks(
    const std::vector<const Target*>& targets,
    std::vector<LoraUpdate>& updates) {
  std::map<std::string, std::int64_t> ranks;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    auto& rank = ranks[targets[i]->pattern_path];
    rank = std::max(rank, rank_of(updates[i].factors, targets[i]->layout));
  }
  for (std::size_t i = 0; i < targets.size(); ++i) {
    updates[i].factors = pad_rank(
        updates[i].factors,
        targets[i]->layout,
        ranks[targets[i]->pattern_path]);
  }
}

FactorPair pad_rank(
    const FactorPair& factors,
    const WeightLayout& layout,
    std::int64_t rank) {
  if (rank_of(factors, layout) == rank) {
    return factors;
  }
  auto blocks = split_factors(factors, layout);
  for (FactorPair& block : blocks) {
    const std::int64_t more = block_rank(layout, rank) - block.A.size(0);
    block = {
        at::cat({block.A, block.A.new_zeros({more, block.A.size(1)})}),
        at::cat({block.B, block.B.new_zeros({block.B.size(0), more})}, 1)};
  }
  return join_factors(blocks, layout);
}

void insert_update(
    StateDict& weights,
    const Target& target,
    const LoraUpdate& update) {
  const bool is_table = target.layout.form == Form::table;
  const auto insert = [&](const char* name, const at::Tensor& tensor) {
    weights.insert(join_path(target.file_prefix, name), tensor.contiguous());
  };
  insert(is_table ? "lora_embedding_A" : "lora_A.weight", update.factors.A);
  insert(is_table ? "lora_embedding_B" : "lora_B.weight", update.factors.B);
  if (update.bias.defined()) {
    insert("lora_B.bias", update.bias);
  }
}

void fill_biases(
    StateDict& weights,
    const std::vector<const Target*>& targets) {
  const auto key = [](const Target& t) {
    return join_path(t.file_prefix, "lora_B.bias");
  };
  const bool any = std::any_of(targets.begin(), targets.end(), [&](auto* t) {
    return weights.contains(key(*t));
  });
  for (const Target* target : targets) {
    if (any && !weights.contains(key(*target))) {
      weights.insert(
          key(*target),
          at::zeros({target->layout.outputs}, target->base.options()));
    }
  }
}

void set_ranks(
    LoraConfig& config,
    const std::vector<const Target*>& targets,
    const StateDict& weights) {
  std::vector<StoredLayer> layers;
  for (const Target* target : targets) {
    StoredLayer layer{
        .path = target->pattern_path,
        .shapes = stored_shapes(weights, target->file_prefix),
        .count = target->layout.count};
    layer.alpha =
        static_cast<double>(layer.shapes.front().second[0] / layer.count);
    layers.push_back(std::move(layer));
  }
  config.rank_pattern.clear();
  config.alpha_pattern.clear();
  config.use_rslora = false;
  config.init_lora_weights = true;
  method_entry(config).adopt(config, layers);
}

}  // namespace peft::detail
