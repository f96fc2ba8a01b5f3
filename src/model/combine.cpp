// SPDX-License-Identifier: Apache-2.0
// One adapter made of several: see peft/combine.h.
#include <algorithm>
#include <map>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include "base/text.h"
#include "hosting/module_host.h"
#include "hosting/replace_data.h"
#include "methods/factor_blocks.h"
#include "model/adapter_tensors.h"
#include "model/combine_checks.h"
#include "model/injection.h"
#include "model/lora_update.h"
#include "peft/combine.h"
#include "peft/ia3_config.h"

namespace peft {
namespace {

using namespace detail;
using Type = Combination::Type;

constexpr const char* asking = "add_weighted_adapter";

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

// Copies of modules, which one adapter has alone.
void insert_copies(StateDict& weights, const std::vector<Source>& sources) {
  for (const auto& [record, weight] : sources) {
    for (const Target& target : record->targets) {
      if (target.role == Role::saved_copy && !target.tied_to) {
        weights.insert(
            join_path(target.file_prefix, target.specs[0].file_name),
            target.attachment->parameters[0].detach());
      }
    }
  }
}

// Sources may keep float32 factors on a base of less.
void widen(
    const AdapterRecord& record,
    const StateDict& weights,
    at::ScalarType dtype) {
  for (const auto& item : adapter_tensors(record)) {
    const at::Tensor* exact_values = weights.find(item.key());
    if (exact_values && item.value().scalar_type() != dtype &&
        item.value().is_floating_point()) {
      replace_data(
          item.value(), exact_values->to(item.value().device(), dtype));
    }
  }
}

std::unique_ptr<AdapterConfig> combined_config(
    const std::vector<Source>& sources) {
  auto config = sources.front().record->config->clone();
  config->inference_mode = true;
  if (config->target_rules().target_parameters.empty()) {
    config->target_modules = {};  // the tensors tell
  }
  std::vector<std::string> saved;
  for (const auto& [record, weight] : sources) {
    for (const auto& name : record->config->modules_to_save) {
      if (std::find(saved.begin(), saved.end(), name) == saved.end()) {
        saved.push_back(name);
      }
    }
  }
  config->modules_to_save = std::move(saved);
  return config;
}

Adapters add(
    const Host& host,
    const std::shared_ptr<ModelState>& state,
    const std::vector<Source>& sources,
    const AdapterConfig& config,
    const StateDict& weights,
    const std::string& name) {
  const auto& first = *sources.front().record;
  const at::ScalarType dtype =
      first.targets.front().attachment->parameters.front().scalar_type();
  const bool by_parameters = !config.target_rules().target_parameters.empty();
  Adapters adapters = inject(
      config,
      host,
      name,
      {.layers_of = by_parameters ? nullptr : &weights,
       .weights = &weights,
       .activate = false});
  widen(*state->find(name), weights, dtype);
  return adapters;
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

Adapters combine_lora(
    const Host& host,
    const std::shared_ptr<ModelState>& state,
    const std::vector<Source>& sources,
    const std::string& name,
    const CombineOptions& given,
    Combination how,
    Mistakes& mistakes) {
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
  insert_copies(weights, sources);
  return add(host, state, sources, *config, weights, name);
}

bool scales_inputs(const Target& target) {
  return !target.attachment->method->changes_bias();
}

// The layers whose inputs are scaled, for feedforward_modules.
std::vector<std::string> feedforward_layers(
    const std::vector<Source>& sources,
    Mistakes& mistakes) {
  std::vector<std::string> layers;
  std::map<std::string, std::pair<bool, std::string>> sides;  // by layer
  for (const auto& [record, weight] : sources) {
    for (const Target& target : record->targets) {
      if (!target.of_method()) {
        continue;
      }
      const bool inputs = scales_inputs(target);
      const auto [place, is_new] =
          sides.try_emplace(target.file_prefix, inputs, record->name);
      const auto& [inputs_before, name_before] = place->second;
      if (is_new && inputs) {
        layers.push_back(target.pattern_path);
      } else if (inputs != inputs_before) {
        mistakes.add(concat(
            "'",
            name_before,
            inputs_before ? "' scales the inputs of '"
                          : "' scales the outputs of '",
            target.layer_path,
            "', '",
            record->name,
            inputs ? "' its inputs" : "' its outputs",
            " (feedforward_modules)"));
      }
    }
  }
  return layers;
}

Adapters combine_ia3(
    const Host& host,
    const std::shared_ptr<ModelState>& state,
    const std::vector<Source>& sources,
    const std::string& name,
    Mistakes& mistakes) {
  const at::NoGradGuard no_grad;
  auto feedforward = feedforward_layers(sources, mistakes);
  mistakes.raise_if_any();
  StateDict weights;
  for (const auto& [record, weight] : sources) {
    for (const Target& target : record->targets) {
      if (!target.of_method()) {
        continue;
      }
      const std::string key = join_path(target.file_prefix, "ia3_l");
      const at::Tensor part =
          exact(target.attachment->parameters[0].detach()) * weight;
      if (at::Tensor* sum = weights.find(key)) {
        *sum = *sum + part;
      } else {
        weights.insert(key, part);
      }
    }
  }
  insert_copies(weights, sources);
  const auto config = combined_config(sources);
  dynamic_cast<IA3Config&>(*config).feedforward_modules =
      std::move(feedforward);
  return add(host, state, sources, *config, weights, name);
}

}  // namespace

Adapters add_weighted_adapter(
    torch::nn::Module& model,
    const std::vector<std::string>& names,
    const std::vector<double>& weights,
    const std::string& adapter_name,
    const CombineOptions& given) {
  const ModuleHost host(model);
  const auto state = get_state(host);
  const auto turn = state->lock();
  Mistakes mistakes(
      ErrorKind::config,
      concat("[", asking, "] cannot make adapter '", adapter_name, "'"));
  const Combination how = combination_of(given, mistakes);
  const auto sources = find_sources(*state, names, weights, mistakes);
  if (state->find(adapter_name)) {
    mistakes.add(
        concat("the model has an adapter '", adapter_name, "' already"));
  }
  if (!sources.empty()) {
    check_kinds(sources, mistakes);
  }
  mistakes.raise_if_any();
  check_parts(sources, asking, mistakes);
  mistakes.raise_if_any();
  return sources.front().record->config->peft_type() == "IA3"
      ? combine_ia3(host, state, sources, adapter_name, mistakes)
      : combine_lora(host, state, sources, adapter_name, given, how, mistakes);
}

Adapters subtract_adapter(
    torch::nn::Module& model,
    const std::string& adapter,
    const std::string& other,
    const std::string& adapter_name) {
  return add_weighted_adapter(
      model,
      {adapter, other},
      {1, -1},
      adapter_name,
      {.combination_type = "cat"});
}

}  // namespace peft
