// SPDX-License-Identifier: Apache-2.0
#include "methods/eva_ranks.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cosine_similarity.h>
#include <ATen/ops/equal.h>

#include "base/mistakes.h"
#include "base/text.h"
#include "methods/eva_rank_shares.h"
#include "methods/finite.h"

namespace peft::detail {

EvaRanks::EvaRanks(
    const std::vector<EvaLayer>& layers,
    const EvaSettings& settings)
    : settings_(settings) {
  Mistakes mistakes(ErrorKind::config, "EVA");
  for (const EvaLayer& layer : layers) {
    // Halves go to the even neighbour, as in Python.
    const double wanted =
        std::nearbyint(static_cast<double>(layer.rank) * settings.rho);
    const bool is_too_many = wanted > static_cast<double>(layer.inputs);
    const auto components = is_too_many ? 0 : static_cast<std::int64_t>(wanted);
    if (is_too_many) {
      mistakes.add(concat(
          "'",
          layer.path,
          "' needs ",
          wanted,
          " components, r = ",
          layer.rank,
          " times rho = ",
          settings.rho,
          ", of only ",
          layer.inputs,
          " inputs; lower rho, or r by rank_pattern"));
    }
    budget_ += layer.rank;
    layers_.push_back({layer, components, components, layers_.size()});
  }
  mistakes.raise_if_any();
}

bool EvaRanks::is_leader(std::size_t layer) const {
  return layers_[layer].leader == layer;
}

bool EvaRanks::wants(std::size_t layer) const {
  return is_first_batch_ || (is_leader(layer) && !layers_[layer].rests);
}

void EvaRanks::see(std::size_t layer, const at::Tensor& rows) {
  Layer& seen = layers_[layer];
  if (!wants(layer)) {
    return;
  }
  if (rows.dim() != 2 || rows.size(1) != seen.given.inputs) {
    throw Error(
        ErrorKind::shape,
        concat(
            "EVA: '",
            seen.given.path,
            "' needs rows of ",
            seen.given.inputs,
            " inputs, found ",
            rows.sizes()));
  }
  check_finite(
      rows,
      concat(
          "EVA: the inputs of '",
          seen.given.path,
          "' hold NaN or infinite values; look at the data, and whether the "
          "model runs in its dtype"));
  const at::NoGradGuard no_grad;
  seen.most_rows = std::max(seen.most_rows, rows.size(0));
  if (is_first_batch_) {
    seen.first_rows.push_back(keep(rows));
  } else {
    fit(seen, rows);
  }
}

// A tensor kept before that is the same in every entry, or a copy.
at::Tensor EvaRanks::keep(const at::Tensor& rows) const {
  for (const Layer& layer : layers_) {
    for (const at::Tensor& kept : layer.first_rows) {
      if (kept.sizes() == rows.sizes() && kept.device() == rows.device() &&
          kept.scalar_type() == rows.scalar_type() && at::equal(kept, rows)) {
        return kept;
      }
    }
  }
  return rows.detach().clone();
}

void EvaRanks::fit(Layer& layer, const at::Tensor& rows) {
  if (rows.size(0) < layer.components) {
    return;
  }
  const at::Tensor before =
      layer.pca->fitted() ? layer.pca->components().clone() : at::Tensor();
  layer.pca->fit(rows.to(at::kFloat));
  if (before.defined()) {
    layer.converged = at::cosine_similarity(layer.pca->components(), before)
                          .ge(settings_.tau);
  }
}

void EvaRanks::check_all_seen() const {
  Mistakes mistakes(ErrorKind::target, "EVA");
  for (const Layer& layer : layers_) {
    if (layer.first_rows.empty()) {
      mistakes.add(concat(
          "'",
          layer.given.path,
          "' did not run in the first batch; leave it out by "
          "exclude_modules, or use data that reaches it"));
    }
  }
  mistakes.raise_if_any();
}

// By the first call of each layer.
void EvaRanks::share_equal_inputs() {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    std::size_t j = 0;
    while (!layers_[j].first_rows[0].is_same(layers_[i].first_rows[0])) {
      ++j;
    }
    layers_[i].leader = j;
    layers_[j].components =
        std::max(layers_[j].components, layers_[i].components);
  }
  for (Layer& layer : layers_) {
    layer.components = layer.rank = layers_[layer.leader].components;
  }
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (is_leader(i)) {
      layers_[i].pca.emplace(layers_[i].components);
    }
  }
}

void EvaRanks::share_out() {
  std::vector<at::Tensor> shares;
  std::vector<std::size_t> leaders;
  for (const Layer& layer : layers_) {
    leaders.push_back(layer.leader);
    shares.push_back(layers_[layer.leader].pca->explained_variance_ratio());
  }
  const auto ranks = share_ranks(shares, leaders, budget_);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].rank = ranks[i];
  }
}

bool EvaRanks::has_converged(const Layer& layer) const {
  return layer.rank == 0 ||
      (layer.converged.defined() &&
       layer.converged.slice(0, 0, layer.rank).all().item<bool>());
}

void EvaRanks::end_batch() {
  const at::NoGradGuard no_grad;
  if (is_first_batch_) {
    check_all_seen();
    share_equal_inputs();
    is_first_batch_ = false;
    for (Layer& layer : layers_) {
      for (const at::Tensor& rows : std::exchange(layer.first_rows, {})) {
        if (layer.pca) {
          fit(layer, rows);
        }
      }
    }
  }
  const auto is_fitted = [](const Layer& layer) {
    return !layer.pca || layer.pca->fitted();
  };
  if (std::all_of(layers_.begin(), layers_.end(), is_fitted)) {
    share_out();
  }
  for (Layer& layer : layers_) {
    layer.rests = layer.pca && has_converged(layer);
  }
}

bool EvaRanks::done() const {
  return !is_first_batch_ &&
      std::all_of(layers_.begin(), layers_.end(), [](const Layer& layer) {
        return !layer.pca || layer.rests;
      });
}

std::string EvaRanks::progress() const {
  std::size_t converged = 0;
  std::string lacking;
  for (const Layer& layer : layers_) {
    converged += layers_[layer.leader].rests ? 1 : 0;
    if (lacking.empty() && layer.most_rows < layer.components &&
        !is_first_batch_ && layer.pca) {
      lacking = concat(
          "; '",
          layer.given.path,
          "' needs ",
          layer.components,
          " rows in one batch and saw ",
          layer.most_rows,
          " at most");
    }
  }
  return concat(
      converged, " of ", layers_.size(), " layers have converged", lacking);
}

std::vector<std::int64_t> EvaRanks::ranks() const {
  std::vector<std::int64_t> ranks;
  for (const Layer& layer : layers_) {
    ranks.push_back(layer.rank);
  }
  return ranks;
}

std::vector<at::Tensor> EvaRanks::components() const {
  if (!done()) {
    throw Error(
        ErrorKind::state,
        concat("EVA: ", progress(), "; go on with more batches"));
  }
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> all;
  for (const Layer& layer : layers_) {
    const IncrementalPca& pca = *layers_[layer.leader].pca;
    at::Tensor components = pca.components().slice(0, 0, layer.rank).clone();
    if (settings_.whiten) {
      const auto S = pca.singular_values().slice(0, 0, layer.rank);
      components.div_(S.sqrt().unsqueeze(1));
      check_finite(
          components,
          concat(
              "EVA: the inputs of '",
              layer.given.path,
              "' vary in fewer than ",
              layer.rank,
              " directions, which cannot be whitened; use whiten = false or a "
              "lower r"));
    }
    all.push_back(components);
  }
  return all;
}

}  // namespace peft::detail
