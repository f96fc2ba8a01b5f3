// SPDX-License-Identifier: Apache-2.0
// What an adapter adds to one weight, as low-rank factors.
#pragma once

#include "methods/factor_pair.h"
#include "methods/factor_svd.h"
#include "model/model_state.h"
#include "peft/combine.h"

namespace peft::detail {

/// W' = W + scale * B A and b' = b + scale * bias.
struct LoraUpdate {
  FactorPair factors;  // in the layout's shapes
  at::Tensor bias;     // undefined: none
  double scale = 1;
  /// False: what the adapter does is more than this, as DoRA's magnitudes are.
  bool is_all = true;
  bool acts_everywhere = true;
};

/// The update as the adapter keeps it. Nothing for one that is no product.
std::optional<LoraUpdate> update_of(const Target& target);

/// The nearest update of the rank asked for, its scale 1.
LoraUpdate at_rank(
    const LoraUpdate& update,
    const WeightLayout& layout,
    const RankChoice& rank);
/// All that an adapter of any method does, likewise.
LoraUpdate update_of_rank(const Target& target, const RankChoice& rank);

/// Gives all that share a pattern path, and so a rank, the largest of theirs.
void level_ranks(
    const std::vector<const Target*>& targets,
    std::vector<LoraUpdate>& updates);

/// The rank of factors on a weight.
std::int64_t rank_of(const FactorPair& factors, const WeightLayout& layout);

/// A rank that the groups of a convolution can share: the next multiple.
std::int64_t in_whole_groups(std::int64_t rank, const WeightLayout& layout);

/// With zeros up to a rank.
FactorPair pad_rank(
    const FactorPair& factors,
    const WeightLayout& layout,
    std::int64_t rank);

/// As files call the factors of a weight.
void insert_update(
    StateDict& weights,
    const Target& target,
    const LoraUpdate& update);

/// lora_bias is one for all layers: where some of them have a bias in
/// `weights`, the others get zeros.
void fill_biases(StateDict& weights, const std::vector<const Target*>& targets);

/// `config` for these layers: ranks and variants as the shapes of `weights`
/// have them, and every scale 1.
void set_ranks(
    LoraConfig& config,
    const std::vector<const Target*>& targets,
    const StateDict& weights);

}  // namespace peft::detail
