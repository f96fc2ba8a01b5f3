// SPDX-License-Identifier: Apache-2.0
#include "model/injection_plan.h"

#include "base/text.h"
#include "hosting/adapted_tensor.h"
#include "model/choose.h"
#include "model/layer_names.h"
#include "model/plan_parts.h"

namespace peft::detail {
namespace {

void check_name(
    const std::string& name,
    const ModelState* state,
    Mistakes& mistakes) {
  if (name.empty()) {
    mistakes.add("the adapter name is empty; give it a name such as 'default'");
  } else if (name == no_adapter) {
    mistakes.add(
        "the adapter name '__base__' stands for no adapter in mixed batches; "
        "use another");
  } else if (name.find('.') != std::string::npos) {
    mistakes.add(concat(
        "the adapter name '",
        name,
        "' contains a '.'; dots separate modules "
        "in paths, use '_' or '-'"));
  } else if (name.find('\0') != std::string::npos) {
    mistakes.add("the adapter name contains a NUL byte");
  } else if (name.find_first_of("/\\") != std::string::npos) {
    mistakes.add(concat(
        "the adapter name '",
        name,
        "' contains a slash; adapters are saved "
        "in folders of their name, use '_' or '-'"));
  }
  if (state && state->find(name)) {
    mistakes.add(
        ErrorKind::state,
        concat(
            "the model already has an adapter '",
            name,
            "'; choose another "
            "name, or delete_adapter first (the model has ",
            list_names(state->names()),
            ")"));
  }
}

// A method that works between the steps of training works for one adapter.
void check_only_one_trains(
    const AdapterConfig& config,
    const ModelState* state,
    Mistakes& mistakes) {
  if (!state || config.inference_mode || !method_entry(config).make_schedule) {
    return;
  }
  for (const auto& other : state->adapters) {
    if (other->schedule && other->config->peft_type() == config.peft_type()) {
      mistakes.add(concat(
          "'",
          other->name,
          "' is a trainable ",
          config.peft_type(),
          " adapter already, and a model can have one; set inference_mode = "
          "true on the others"));
    }
  }
}

}  // namespace

void check_ownership(
    Planning& planning,
    const HostedTensor& tensor,
    const std::string& where) {
  const auto* adapted = as_adapted(tensor.place->get());
  if (adapted && adapted->owner().get() != planning.state) {
    planning.mistakes.add(
        ErrorKind::state,
        concat(
            where,
            " is already adapted through another model or by "
            "peft::adapt; inject through the module those adapters were "
            "injected through"));
  }
  if (adapted && tensor.layout &&
      adapted->weight()->layout().form != tensor.layout->form) {
    planning.mistakes.add(
        ErrorKind::state,
        concat(
            where,
            " is already adapted as ",
            adapted->weight()->layout().describe(),
            " and cannot be read as ",
            tensor.layout->describe(),
            " beside that"));
  }
}

InjectionPlan plan_injection(
    const AdapterConfig& config,
    const Host& host,
    const ModelState* state,
    const std::string& name,
    const std::set<std::string>& one_object) {
  Mistakes mistakes(
      ErrorKind::config,
      concat("cannot inject adapter '", name, "' into ", host.type()));
  check_name(name, state, mistakes);
  config.check(mistakes);
  check_only_one_trains(config, state, mistakes);
  InjectionPlan plan{.name = name, .config = config.clone()};
  const auto layers = host.layers();
  const auto names = layer_names(layers);
  const TargetRules rules = config.target_rules();
  Planning planning{
      .config = config,
      .rules = rules,
      .state = state,
      .layers = layers,
      .plan = plan,
      .mistakes = mistakes,
      .one_object = one_object};
  try {
    plan_adapted_weights(planning, names);
    plan_saved_modules(planning, names);
    plan_token_rows(planning);
    plan_biases(planning);
    plan_ties(planning);
  } catch (const Error& error) {  // matching reports its mistakes itself
    mistakes.add(error.kind(), error.what());
  }
  mistakes.raise_if_any();
  return plan;
}

MatchReport report_matches(const AdapterConfig& config, const Host& host) {
  const auto layers = host.layers();
  Mistakes mistakes(ErrorKind::config, "config");
  config.check(mistakes);
  MatchReport report =
      match_targets(config, layer_names(layers), /*throwing=*/false);
  choose_weights(config, layers, report);
  if (mistakes.any()) {
    report.notes.insert(report.notes.begin(), mistakes.text());
  }
  return report;
}

}  // namespace peft::detail
