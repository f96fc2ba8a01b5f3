// SPDX-License-Identifier: Apache-2.0
// The weighted sum of LoRA adapters, layer by layer, on their factors.
#include <algorithm>
#include <map>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include "base/text.h"
#include "methods/factor_blocks.h"
#include "model/combination.h"
#include "model/lora_update.h"

namespace peft::detail {
namespace {

using Type = Combination::Type;

// What the sources have on one weight.
struct Layer {
  const Target* target;
  std::vector<ScaledFactors> parts;
  at::Tensor bias;  // the weighted sum; undefined: none has one
};

std::vector<Layer> gather_layers(const std::vector<Source>& sources) {
  std::vector<Layer> layers;
  std::map<std::string, std::size_t> places;
  for (const auto& [record, weight] : sources) {
    for (const Target& target : record->targets) {
      if (!target.of_method()) {
        continue;
      }
      const auto [place, is_new] =
          places.try_emplace(target.file_prefix, layers.size());
      if (is_new) {
        layers.push_back({&target, {}, {}});
      }
      Layer& layer = layers[place->second];
      const auto update = update_of(target);
      layer.parts.push_back(
          {update->factors.A, update->factors.B, weight, update->scale});
      if (update->bias.defined()) {
        const at::Tensor bias = update->bias * (weight * update->scale);
        layer.bias = layer.bias.defined() ? layer.bias + bias : bias;
      }
    }
  }
  return layers;
}

std::int64_t largest_rank(const Source& source) {
  std::int64_t rank = 0;
  for (const Target& target : source.record->targets) {
    if (target.of_method()) {
      rank = std::max(rank, rank_of(update_of(target)->factors, target.layout));
    }
  }
  return rank;
}

// The rank of the result, and what stands in its way.
std::int64_t choose_rank(
    const std::vector<Source>& sources,
    const CombineOptions& options,
    Type type,
    Mistakes& mistakes) {
  std::int64_t largest = 0;
  std::int64_t sum = 0;
  std::string ranks;  // "a: 2, b: 4"
  bool equal = true;
  for (const Source& source : sources) {
    const std::int64_t rank = largest_rank(source);
    equal = equal && (largest == 0 || rank == largest);
    largest = std::max(largest, rank);
    sum += rank;
    ranks += concat(ranks.empty() ? "" : ", ", source.record->name, ": ", rank);
  }
  if (needs_equal_ranks(type) && !equal) {
    mistakes.add(concat(
        "combination_type = '",
        options.combination_type,
        "' needs equal ranks (",
        ranks,
        "); \"cat\" and the \"svd\" types do not"));
  }
  return type == Type::cat        ? sum
      : has_rank_of_its_own(type) ? options.svd_rank.value_or(largest)
                                  : largest;
}

FactorPair combine(const Layer& layer, Combination how) {
  const WeightLayout& layout = layer.target->layout;
  how.rank = in_whole_groups(how.rank, layout);
  if (needs_equal_ranks(how.type)) {
    // Not how.rank yet: what pruning keeps is a share of all entries.
    std::int64_t rank = 0;
    for (const ScaledFactors& part : layer.parts) {
      rank = std::max(rank, rank_of({part.A, part.B}, layout));
    }
    std::vector<ScaledFactors> parts = layer.parts;
    for (ScaledFactors& part : parts) {
      const auto padded = pad_rank({part.A, part.B}, layout, rank);
      part.A = padded.A;
      part.B = padded.B;
    }
    return pad_rank(combine_factors(parts, how), layout, how.rank);
  }
  std::vector<std::vector<FactorPair>> by_part;
  for (const ScaledFactors& part : layer.parts) {
    by_part.push_back(split_factors({part.A, part.B}, layout));
  }
  Combination of_block = how;
  of_block.rank = block_rank(layout, how.rank);
  std::vector<FactorPair> blocks;
  for (std::size_t b = 0; b < by_part.front().size(); ++b) {
    std::vector<ScaledFactors> parts;
    for (std::size_t i = 0; i < by_part.size(); ++i) {
      parts.push_back(
          {by_part[i][b].A,
           by_part[i][b].B,
           layer.parts[i].weight,
           layer.parts[i].scale});
    }
    blocks.push_back(combine_factors(parts, of_block));
  }
  return pad_rank(join_factors(blocks, layout), layout, how.rank);
}

// The sum of biases makes lora_bias, which is one for all layers.
void check_biases(const std::vector<Layer>& layers, Mistakes& mistakes) {
  const bool any = std::any_of(layers.begin(), layers.end(), [](const auto& l) {
    return l.bias.defined();
  });
  for (const Layer& layer : layers) {
    if (any && layer.target->layout.form == WeightLayout::Form::table) {
      mistakes.add(
          ErrorKind::unsupported,
          concat(
              "one of the adapters has lora_bias, and another is on '",
              layer.target->layer_path,
              "', an embedding, which can have none"));
    }
  }
}

}  // namespace

Adapters combine_lora(
    const CombinationRequest& request,
    const CombineOptions& given,
    Combination how,
    Mistakes& mistakes) {
  const auto& sources = request.sources;
  if (sources.size() == 1 && !given.svd_rank) {
    how.type = Type::linear;  // is exact then, as in PEFT
  }
  how.rank = choose_rank(sources, given, how.type, mistakes);
  mistakes.raise_if_any();
  const at::NoGradGuard no_grad;
  const std::vector<Layer> layers = gather_layers(sources);
  check_biases(layers, mistakes);
  mistakes.raise_if_any();
  StateDict weights;
  std::vector<const Target*> targets;
  for (const Layer& layer : layers) {
    insert_update(
        weights,
        *layer.target,
        {.factors = combine(layer, how), .bias = layer.bias});
    targets.push_back(layer.target);
  }
  fill_biases(weights, targets);
  const auto config = combined_config(sources);
  auto& lora = dynamic_cast<LoraConfig&>(*config);
  set_ranks(lora, targets, weights);
  lora.bias = "none";
  return add_combined(request, *config, std::move(weights));
}

}  // namespace peft::detail
