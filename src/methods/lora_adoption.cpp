// SPDX-License-Identifier: Apache-2.0
// LoRA's config by what there is already: an adapter's tensors, or the data
// that its factors start from.
#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>

#include "base/text.h"
#include "config/lora_variants.h"
#include "matching/name_pattern.h"
#include "methods/data_start.h"
#include "methods/lora.h"
#include "peft/error.h"
#include "peft/lora_config.h"

namespace peft::detail {
namespace {

bool is_factor_A(const std::string& name) {
  return name == "lora_A.weight" || name == "lora_embedding_A";
}

bool has(const StoredLayer& layer, const std::string_view start) {
  return std::any_of(
      layer.shapes.begin(), layer.shapes.end(), [&](const auto& entry) {
        return entry.first.starts_with(start);
      });
}

// 0 for a layer without A.
std::int64_t rank_of(const StoredLayer& layer) {
  for (const auto& [name, shape] : layer.shapes) {
    if (is_factor_A(name) && !shape.empty()) {
      return shape[0] / std::max<std::int64_t>(1, layer.count);
    }
  }
  return 0;
}

// What most layers have; of equals, the first.
template <class Value>
Value most_common(const std::vector<Value>& values) {
  std::map<Value, std::size_t> counts;
  for (const Value& value : values) {
    ++counts[value];
  }
  return *std::max_element(
      values.begin(), values.end(), [&](const Value& a, const Value& b) {
        return counts[a] < counts[b];
      });
}

void adopt_ranks(LoraConfig& lora, const std::vector<StoredLayer>& layers) {
  std::vector<std::int64_t> ranks;
  for (const StoredLayer& layer : layers) {
    if (const auto rank = rank_of(layer)) {
      ranks.push_back(rank);
    }
  }
  if (ranks.empty()) {
    return;
  }
  lora.r = most_common(ranks);
  lora.rank_pattern.clear();
  for (const StoredLayer& layer : layers) {
    if (const auto rank = rank_of(layer); rank && rank != lora.r) {
      lora.rank_pattern.emplace_back(exact_path_key(layer.path), rank);
    }
  }
}

void adopt_alphas(LoraConfig& lora, const std::vector<StoredLayer>& layers) {
  std::vector<double> alphas;
  for (const StoredLayer& layer : layers) {
    if (layer.alpha) {
      alphas.push_back(*layer.alpha);
    }
  }
  if (alphas.empty()) {
    return;
  }
  const bool all_known = alphas.size() == layers.size();
  if (all_known) {
    lora.lora_alpha = most_common(alphas);
    lora.alpha_pattern.clear();
  }
  for (const StoredLayer& layer : layers) {
    if (layer.alpha && !(all_known && *layer.alpha == lora.lora_alpha)) {
      lora.alpha_pattern.insert(
          lora.alpha_pattern.begin(),
          {exact_path_key(layer.path), *layer.alpha});
    }
  }
}

// Whether all layers have tensors called so; none or all must.
bool all_have(
    const std::vector<StoredLayer>& layers,
    const char* start,
    const char* field,
    Mistakes& mistakes) {
  std::vector<std::string> with;
  std::vector<std::string> without;
  for (const StoredLayer& layer : layers) {
    (has(layer, start) ? with : without).push_back(layer.path);
  }
  if (!with.empty() && !without.empty()) {
    mistakes.add(
        ErrorKind::unsupported,
        concat(
            list_names(with),
            " have ",
            start,
            " in the state_dict and ",
            list_names(without),
            " have not; ",
            field,
            " is for all layers of an adapter or none"));
  }
  return !with.empty();
}

}  // namespace

void adopt_lora(AdapterConfig& config, const std::vector<StoredLayer>& layers) {
  auto& lora = dynamic_cast<LoraConfig&>(config);
  Mistakes mistakes(ErrorKind::config, "cannot inject from the state_dict");
  lora.layers_to_transform = {};
  lora.layers_pattern = {};
  adopt_ranks(lora, layers);
  adopt_alphas(lora, layers);
  lora.use_dora =
      all_have(layers, "lora_magnitude_vector", "use_dora", mistakes);
  lora.lora_bias = all_have(layers, "lora_B.bias", "lora_bias", mistakes);
  mistakes.raise_if_any();
}

const char* lora_data_pass(const AdapterConfig& config) {
  const auto& lora = dynamic_cast<const LoraConfig&>(config);
  const std::string scheme = scheme_of(lora.init_lora_weights);
  return scheme == "corda"  ? "preprocess_corda"
      : scheme == "eva"     ? "preprocess_eva"
      : scheme == "lora_ga" ? "preprocess_loraga"
                            : nullptr;
}

// As PEFT: alpha grows with the rank, so that the strength stays.
void adopt_lora_data(
    AdapterConfig& config,
    const std::vector<LayerData>& layers) {
  auto& lora = dynamic_cast<LoraConfig&>(config);
  if (scheme_of(lora.init_lora_weights) != "eva") {
    return;
  }
  const bool adjusts =
      lora.eva_config.value_or(EvaConfig{}).adjust_scaling_factors;
  Patterns<std::int64_t> ranks;
  Patterns<double> alphas;
  for (const LayerData& layer : layers) {
    const std::string& path = layer.name.pattern_path;
    const auto before =
        value_for_path(lora.rank_pattern, path).value_or(lora.r);
    auto alpha =
        value_for_path(lora.alpha_pattern, path).value_or(lora.lora_alpha);
    const std::int64_t rank = layer.data ? layer.data->size(0) : before;
    if (adjusts && rank != before) {
      alpha *= static_cast<double>(rank) / static_cast<double>(before);
    }
    if (rank != lora.r) {
      ranks.emplace_back(exact_path_key(path), rank);
    }
    if (alpha != lora.lora_alpha) {
      alphas.emplace_back(exact_path_key(path), alpha);
    }
  }
  lora.rank_pattern = std::move(ranks);
  lora.alpha_pattern = std::move(alphas);
}

bool lora_needs_plain_files(const AdapterConfig& config) {
  const auto& lora = dynamic_cast<const LoraConfig&>(config);
  return takes_weight_apart(lora.init_lora_weights) && DataStart(lora).is_set();
}

}  // namespace peft::detail
