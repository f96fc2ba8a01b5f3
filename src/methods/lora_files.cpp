// SPDX-License-Identifier: Apache-2.0
// What files ask of LoRA's config: ranks that follow stored shapes, patterns
// that survive sorted keys, adapters as plain LoRA, what Python PEFT can load.
#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include "config/lora_variants.h"
#include "matching/name_pattern.h"
#include "methods/lora.h"
#include "methods/lora_initialisation.h"
#include "peft/lora_config.h"

namespace peft::detail {

void fit_lora(
    AdapterConfig& config,
    const WeightName& name,
    const WeightLayout& layout,
    const StoredShapes& shapes) {
  const std::string& path = name.pattern_path;
  auto& lora = dynamic_cast<LoraConfig&>(config);
  const auto expected =
      value_for_path(lora.rank_pattern, path).value_or(lora.r);
  for (const auto& [key, shape] : shapes) {
    const bool is_A = key == "lora_A.weight" || key == "lora_embedding_A";
    if (!is_A || shape.empty()) {
      continue;
    }
    const auto stored = shape[0] / std::max<std::int64_t>(1, layout.count);
    // Only a rank that the config speaks of: any other is a mistake, which the
    // shapes will tell.
    const bool is_known = stored == lora.r ||
        std::any_of(lora.rank_pattern.begin(),
                    lora.rank_pattern.end(),
                    [&](const auto& entry) { return entry.second == stored; });
    if (is_known && stored != expected) {
      const auto exact = exact_path_key(path);
      std::erase_if(lora.rank_pattern, [&](const auto& entry) {
        return entry.first == exact;
      });
      lora.rank_pattern.insert(lora.rank_pattern.begin(), {exact, stored});
    }
  }
}

void settle_lora(AdapterConfig& config, const std::vector<std::string>& paths) {
  auto& lora = dynamic_cast<LoraConfig&>(config);
  lora.rank_pattern = order_free(lora.rank_pattern, paths);
  lora.alpha_pattern = order_free(lora.alpha_pattern, paths);
}

// Twice the rank with the same strength in every layer.
void make_plain_lora(AdapterConfig& config) {
  auto& lora = dynamic_cast<LoraConfig&>(config);
  if (!takes_weight_apart(lora.init_lora_weights)) {
    return;
  }
  const double factor = lora.use_rslora ? std::sqrt(2.0) : 2.0;
  lora.r *= 2;
  lora.lora_alpha *= factor;
  for (auto& [key, rank] : lora.rank_pattern) {
    constexpr auto most = std::numeric_limits<std::int64_t>::max();
    rank = rank > most / 2 ? rank : rank * 2;  // of no module, then
  }
  for (auto& [key, alpha] : lora.alpha_pattern) {
    alpha *= factor;
  }
  lora.init_lora_weights = true;
}

Tensors plain_lora(
    const AdapterConfig& config,
    const WeightName&,
    const Tensors& parameters) {
  const auto& lora = dynamic_cast<const LoraConfig&>(config);
  if (!takes_weight_apart(lora.init_lora_weights)) {
    return parameters;
  }
  const at::Tensor A = parameters[0].detach();
  const at::Tensor B = parameters[1].detach();
  // A table took nothing out of its weight, but its rank doubles as well.
  const std::size_t first = lora.lora_bias ? 3 : 2;
  const bool has_initial = parameters.size() >= first + 2;
  const at::Tensor A0 = has_initial ? parameters[first] : at::zeros_like(A);
  const at::Tensor B0 = has_initial ? parameters[first + 1] : at::zeros_like(B);
  Tensors plain = parameters;
  plain[0] = at::cat({A, A0});
  plain[1] = at::cat({B, B0.neg()}, 1);
  return plain;
}

NamedTensors lora_as_head(const Tensors& factors) {
  return {{"lora_A.weight", factors[1].t()}, {"lora_B.weight", factors[0].t()}};
}

bool lora_loads_in_peft(
    const AdapterConfig& config,
    const std::string& layer_type) {
  const auto& lora = dynamic_cast<const LoraConfig&>(config);
  const auto is_one_of = [&](std::initializer_list<const char*> types) {
    return std::find(types.begin(), types.end(), layer_type) != types.end();
  };
  if (is_one_of({"RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"})) {
    return !lora.target_parameters.empty();
  }
  const std::string scheme = scheme_of(lora.init_lora_weights);
  const bool starts_plainly = scheme.empty() || scheme == "gaussian";
  if (is_one_of({"Conv1d", "Conv2d", "Conv3d"})) {
    return starts_plainly;
  }
  return layer_type != "MultiheadAttention" ||
      (starts_plainly && !lora.use_dora);
}

}  // namespace peft::detail
