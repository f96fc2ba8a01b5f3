// SPDX-License-Identifier: Apache-2.0
#include "model/injection_plan.h"

#include <algorithm>

#include "base/text.h"
#include "config/lora_variants.h"
#include "hosting/adapted_tensor.h"
#include "model/choose.h"
#include "model/layer_names.h"
#include "model/own_bases.h"
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

// What adapters of another model do to modules below would show in this one,
// and the other way round. (A module of this model may have its own.)
void check_other_models(
    const Host& host,
    const std::vector<HostedLayer>& layers,
    const ModelState* state,
    Mistakes& mistakes) {
  const auto is_part = [&](const ModelState& other) {
    return std::any_of(layers.begin(), layers.end(), [&](const auto& layer) {
      return layer.seat.get() == other.model;
    });
  };
  const auto other = host.find_owner([&](const Owner& owner) {
    const auto* found = dynamic_cast<const ModelState*>(&owner);
    return found && found != state && !is_part(*found);
  });
  if (other) {
    const auto& found = static_cast<const ModelState&>(*other);
    mistakes.add(
        ErrorKind::state,
        concat(
            "a module of this model has the adapters ",
            list_names(found.names()),
            ", which were injected through another model, a ",
            found.model_type,
            ": each would run what the other's adapters do; inject all of them "
            "through the module that both share"));
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
  if (!adapted || !tensor.layout) {
    return;
  }
  const auto text_of = [](const WeightLayout& layout) {
    return layout.describe() + (layout.inputs_first ? ", inputs first," : "");
  };
  const WeightLayout& before = adapted->weight()->layout();
  if (before.form != tensor.layout->form ||
      before.inputs_first != tensor.layout->inputs_first) {
    planning.mistakes.add(
        ErrorKind::state,
        concat(
            where,
            " is already adapted as ",
            text_of(before),
            " and cannot be read as ",
            text_of(*tensor.layout),
            " beside that"));
  }
}

WeightLayout turned(WeightLayout layout) {
  std::swap(layout.inputs, layout.outputs);
  layout.inputs_first = !layout.inputs_first;
  return layout;
}

InjectionPlan plan_injection(
    const AdapterConfig& config,
    const Host& host,
    const ModelState* state,
    const std::string& name,
    const GivenTensors& given) {
  Mistakes mistakes(
      ErrorKind::config,
      concat("cannot inject adapter '", name, "' into ", host.type()));
  check_name(name, state, mistakes);
  if (given.any) {
    check_beside_tensors(config, mistakes);
  } else {
    config.check(mistakes);
  }
  check_only_one_trains(config, state, mistakes);
  InjectionPlan plan{.name = name, .config = config.clone(), .given = given};
  const auto layers = host.layers();
  check_other_models(host, layers, state, mistakes);
  const auto names = layer_names(layers);
  const TargetRules rules = config.target_rules();
  Planning planning{
      .config = config,
      .rules = rules,
      .state = state,
      .layers = layers,
      .plan = plan,
      .mistakes = mistakes,
      .given = given};
  try {
    plan_adapted_weights(planning, names);
    plan_saved_modules(planning, names);
    plan_token_rows(planning);
    plan_biases(planning);
    plan_ties(planning);
    plan_own_bases(plan, layers, given, mistakes);
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
