// SPDX-License-Identifier: Apache-2.0
#include "model/data_pass.h"

#include <ATen/core/grad_mode.h>
#include <torch/nn/module.h>

#include "base/text.h"
#include "config/lora_variants.h"
#include "matching/name_pattern.h"
#include "model/injection_plan.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

// A name for the plan that the model's adapters do not have.
std::string free_name(const ModelState* state, const char* asking) {
  std::string name = asking;
  while (state && state->find(name)) {
    name += "_";
  }
  return name;
}

}  // namespace

void check_callback(bool given, const char* asking) {
  if (!given) {
    throw Error(
        ErrorKind::config,
        concat("[", asking, "] no function was given to run the model with"));
  }
}

bool starts_from_data(const WeightLayout& layout) {
  return layout.form == WeightLayout::Form::matrix && !layout.without_operator;
}

std::vector<PassLayer> pass_layers(
    const LoraConfig& config,
    const ModuleHost& host,
    const char* scheme,
    const char* asking) {
  if (scheme_of(config.init_lora_weights) != scheme) {
    throw Error(
        ErrorKind::config,
        concat(
            "[",
            asking,
            "] config.init_lora_weights is not '",
            scheme,
            "', so what this pass finds would not be used; set it"));
  }
  const auto state = find_state(host);
  const InjectionPlan plan =
      plan_injection(config, host, state.get(), free_name(state.get(), asking));
  std::vector<PassLayer> layers;
  for (const PlannedTarget& planned : plan.targets) {
    const Target& target = planned.target;
    if (target.of_method() && starts_from_data(*planned.hosted.layout)) {
      layers.push_back(
          {target.file_prefix,
           planned.hosted,
           value_for_path(config.rank_pattern, target.pattern_path)
               .value_or(config.r)});
    }
  }
  if (layers.empty()) {
    throw Error(
        ErrorKind::target,
        concat(
            "[",
            asking,
            "] the config chooses no linear layer, and only those start from "
            "data"));
  }
  return layers;
}

PassMode::PassMode(torch::nn::Module& model, const Host& host, bool training)
    : model_(model), root_mode_(model.is_training()), state_(find_state(host)) {
  for (const auto& module : model.modules(/*include_self=*/false)) {
    modes_.emplace_back(module, module->is_training());
  }
  const at::NoGradGuard no_grad;
  for (const auto& buffer : model.buffers()) {
    buffers_.emplace_back(buffer, training ? buffer.clone() : at::Tensor());
  }
  if (state_) {
    plain_.emplace(
        state_->activation,
        std::make_shared<const Choice>(Choice{.enabled = false}));
  }
  host.prepare();
  model.train(training);
}

PassMode::~PassMode() {
  // Parents come before their children, so that each has the last word on
  // itself.
  model_.train(root_mode_);
  for (const auto& [module, mode] : modes_) {
    module->train(mode);
  }
  const at::NoGradGuard no_grad;
  for (auto& [buffer, before] : buffers_) {
    if (before.defined()) {
      buffer.copy_(before);
    }
  }
}

void check_all_seen(
    const std::vector<std::string>& layers,
    const char* asking,
    const char* what) {
  if (!layers.empty()) {
    throw Error(
        ErrorKind::state,
        concat(
            "[",
            asking,
            "] ",
            list_names(layers),
            " ",
            what,
            "; run the whole model on the data, or leave them out of "
            "target_modules"));
  }
}

}  // namespace peft::detail
