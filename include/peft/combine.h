// SPDX-License-Identifier: Apache-2.0
// Adapters made of adapters.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Generator.h>

#include "peft/adapters.h"
#include "peft/export.h"
#include "peft/lora_config.h"
#include "peft/state_dict.h"

namespace peft {

struct CombineOptions {
  /// How the update matrices D_i = s_i B_i A_i with weights w_i become one:
  ///   "cat"       sum w_i D_i exactly; ranks add up
  ///   "svd"       its best approximation of rank svd_rank
  ///   "linear"    A = sum sign(w_i s_i) sqrt|w_i s_i| A_i, B likewise: not the
  ///               sum of updates, equal ranks
  ///   "ties", "dare_linear", "dare_ties", "magnitude_prune"
  ///               as "linear" on pruned factors (arXiv 2306.01708, 2311.03099)
  ///   the same with "_svd"
  ///               on pruned updates, of rank svd_rank
  std::string combination_type = "svd";
  /// Not set: the largest rank of the adapters.
  std::optional<std::int64_t> svd_rank;
  /// Outliers of the "svd" types' factors are cut off at this quantile.
  std::optional<double> svd_clamp;
  /// The share of values that pruning keeps, in [0, 1]; the types that prune
  /// need it.
  std::optional<double> density;
  /// What elects signs in the "ties" types: "total" or "frequency".
  std::string majority_sign_method = "total";
  /// Of the "dare" types' random numbers; not set: torch's own generator.
  std::optional<at::Generator> generator;
};

/// Adds adapter `adapter_name`, a combination of LoRA adapters (or, with
/// default options, of IA3 ones: l = sum w_i l_i), frozen and not active.
/// Weights may be negative, ranks and layers may differ. Scalings in use count,
/// rsLoRA's, patterns' and set_scale's among them; biases of lora_bias are
/// summed. Computed in float32 or better; the linear types never form a matrix
/// of the layer's size.
///
/// Throws Error naming every mistake: names, kinds, ranks, numbers; two
/// adapters with a copy of the same module. Nothing has changed then.
PEFT_API Adapters add_weighted_adapter(
    torch::nn::Module& model,
    const std::vector<std::string>& adapters,
    const std::vector<double>& weights,
    const std::string& adapter_name,
    const CombineOptions& options = {});

/// Adds adapter `adapter_name`, which does what `adapter` does beyond `other`:
/// the update of the one less that of the other, exactly.
PEFT_API Adapters subtract_adapter(
    torch::nn::Module& model,
    const std::string& adapter,
    const std::string& other,
    const std::string& adapter_name);

/// A rank for every layer, or the share of each layer's energy (the squares of
/// its update's singular values) that its rank must hold, in (0, 1].
class RankChoice {
 public:
  RankChoice(int rank) : rank_(rank) {}
  RankChoice(std::int64_t rank) : rank_(rank) {}
  RankChoice(double energy) : energy_(energy) {}

  const std::optional<std::int64_t>& rank() const { return rank_; }
  const std::optional<double>& energy() const { return energy_; }

 private:
  std::optional<std::int64_t> rank_;
  std::optional<double> energy_;
};

/// Gives a LoRA adapter the best approximation of another rank, in its place as
/// hotswap_adapter does: resize_adapter(model, 4), or resize_adapter(model,
/// 0.9). A larger rank leaves what it computes as it is.
PEFT_API void resize_adapter(
    torch::nn::Module& model,
    RankChoice rank,
    const std::string& adapter_name = "default");

/// An adapter outside a model.
struct LoraWeights {
  LoraConfig config;
  StateDict weights;
};

/// What an adapter of any method does to the weights, as LoRA of the given
/// rank: for inject_adapter_in_model with InjectOptions::state_dict, or for a
/// file. Biases that it changes become lora_bias. Throws Error (unsupported)
/// for what has no such form (token rows, aLoRA).
PEFT_API LoraWeights convert_to_lora(
    torch::nn::Module& model,
    RankChoice rank,
    const std::string& adapter_name = "default");

/// Writes it as an adapter folder.
PEFT_API void save_as_lora(
    torch::nn::Module& model,
    const std::filesystem::path& directory,
    RankChoice rank,
    const std::string& adapter_name = "default");

}  // namespace peft
