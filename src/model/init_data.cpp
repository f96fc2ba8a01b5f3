// SPDX-License-Identifier: Apache-2.0
#include "model/init_data.h"

#include "base/text.h"
#include "base/warning.h"
#include "model/adopt_state_dict.h"
#include "model/data_pass.h"

namespace peft::detail {
namespace {

bool starts_from_data(const PlannedTarget& planned) {
  return planned.target.of_method() && starts_from_data(*planned.hosted.layout);
}

const at::Tensor* find(const StateDict* data, const Target& target) {
  return data ? data->find(target.file_prefix) : nullptr;
}

}  // namespace

InjectionPlan fit_to_data(
    InjectionPlan plan,
    const Host& host,
    const ModelState* state,
    const StateDict& data) {
  const MethodEntry& entry = method_entry(*plan.config);
  if (!entry.adopt_data) {
    return plan;
  }
  std::vector<LayerData> layers;
  std::vector<std::string> paths;
  for (const PlannedTarget& planned : plan.targets) {
    if (!planned.target.of_method()) {
      continue;
    }
    const at::Tensor* found =
        starts_from_data(planned) ? find(&data, planned.target) : nullptr;
    if (!found || found->dim() == 0 || found->size(0) > 0) {
      layers.push_back({planned.target.name(), found});
      paths.push_back(planned.target.layer_path);
    }
  }
  auto config = plan.config->clone();
  entry.adopt_data(*config, layers);
  if (paths.size() < plan.targets.size()) {
    config->target_modules = exact_choice(paths, host.layers());
  }
  return plan_injection(*config, host, state, plan.name, plan.given);
}

void check_init_data(
    const InjectionPlan& plan,
    const InjectionOptions& options) {
  const MethodEntry& entry = method_entry(*plan.config);
  const char* pass = entry.data_pass ? entry.data_pass(*plan.config) : nullptr;
  if (!pass) {
    if (options.init_data) {
      throw Error(
          ErrorKind::config,
          concat(
              "cannot inject adapter '",
              plan.name,
              "': init_data is given, and its config does not start from data; "
              "set init_lora_weights to 'corda', 'eva' or 'lora_ga', or leave "
              "it out"));
    }
    return;
  }
  Mistakes mistakes(
      ErrorKind::config, concat("cannot inject adapter '", plan.name, "'"));
  std::vector<std::string> missing;
  for (const PlannedTarget& planned : plan.targets) {
    if (!starts_from_data(planned)) {
      continue;
    }
    const at::Tensor* data = find(options.init_data, planned.target);
    if (data) {
      planned.method->check_data(
          *planned.hosted.layout, *data, planned.target.layer_path, mistakes);
    } else {
      missing.push_back(planned.target.layer_path);
    }
  }
  const bool is_filled_later = options.weights || options.empty;
  if (!missing.empty() && !is_filled_later) {
    mistakes.add(concat(
        "init_lora_weights starts ",
        list_names(missing),
        " from data, and there is none; run peft::",
        pass,
        " and give what it returns as InjectOptions::init_data"));
  } else if (!missing.empty() && entry.needs_plain_files(*plan.config)) {
    // What was taken out of the base is nowhere to be found. As in PEFT.
    warn(concat(
        "adapter '",
        plan.name,
        "' was trained beside a part of the weight of ",
        list_names(missing),
        " that its files do not hold: it is right only on a base without that "
        "part. Give what peft::",
        pass,
        " found as init_data, or save it as plain LoRA where it was trained "
        "(in Python path_initial_model_for_weight_conversion)"));
  }
  mistakes.raise_if_any();
}

}  // namespace peft::detail
