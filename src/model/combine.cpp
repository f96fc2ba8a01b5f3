// SPDX-License-Identifier: Apache-2.0
// One adapter made of several: see peft/combine.h.
#include "peft/combine.h"

#include "base/text.h"
#include "hosting/module_host.h"
#include "model/combination.h"

namespace peft {

using namespace detail;

Adapters add_weighted_adapter(
    torch::nn::Module& model,
    const std::vector<std::string>& names,
    const std::vector<double>& weights,
    const std::string& adapter_name,
    const CombineOptions& given) {
  constexpr const char* asking = "add_weighted_adapter";
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
  const CombinationRequest request{host, state, sources, adapter_name};
  return sources.front().record->config->peft_type() == "IA3"
      ? combine_ia3(request, mistakes)
      : combine_lora(request, given, how, mistakes);
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
