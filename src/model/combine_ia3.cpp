// SPDX-License-Identifier: Apache-2.0
// The weighted sum of IA3 adapters' vectors: l = sum w_i l_i, as in PEFT.
#include <map>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include "base/text.h"
#include "model/combination.h"
#include "peft/ia3_config.h"

namespace peft::detail {
namespace {

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

}  // namespace

Adapters combine_ia3(const CombinationRequest& request, Mistakes& mistakes) {
  const auto& sources = request.sources;
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
  const auto config = combined_config(sources);
  dynamic_cast<IA3Config&>(*config).feedforward_modules =
      std::move(feedforward);
  return add_combined(request, *config, std::move(weights));
}

}  // namespace peft::detail
