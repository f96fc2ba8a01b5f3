// SPDX-License-Identifier: Apache-2.0
#include "model/injection_plan.h"

#include <map>
#include <set>

#include <c10/core/ScalarType.h>

#include "base/text.h"
#include "hosting/adapted_tensor.h"
#include "hosting/layer_kinds.h"
#include "methods/saved_copy.h"
#include "model/layer_names.h"
#include "peft/lora_config.h"

namespace peft::detail {
namespace {

void check_name(
    const std::string& name,
    const ModelState* state,
    Mistakes& mistakes) {
  if (name.empty()) {
    mistakes.add("the adapter name is empty; give it a name such as 'default'");
  } else if (name.find('.') != std::string::npos) {
    mistakes.add(concat(
        "the adapter name '", name, "' contains a '.'; dots separate modules "
        "in paths, use '_' or '-'"));
  } else if (name.find_first_of("/\\") != std::string::npos) {
    mistakes.add(concat(
        "the adapter name '", name, "' contains a slash; adapters are saved "
        "in folders of their name, use '_' or '-'"));
  }
  if (state && state->find(name)) {
    mistakes.add(
        ErrorKind::state,
        concat(
            "the model already has an adapter '", name, "'; choose another "
            "name, or delete_adapter first (the model has ",
            list_names(state->names()), ")"));
  }
}

class Planner {
 public:
  Planner(
      const AdapterConfig& config,
      const Host& host,
      const ModelState* state,
      InjectionPlan& plan,
      Mistakes& mistakes)
      : config_(config),
        lora_(dynamic_cast<const LoraConfig*>(&config)),
        state_(state),
        layers_(host.layers()),
        plan_(plan),
        mistakes_(mistakes) {}

  void run() {
    const auto names = layer_names(layers_);
    plan_.report = match_targets(config_, names);
    const auto chosen = choose_weights(config_, layers_, plan_.report);
    count_bare(chosen);
    for (const ChosenWeight& choice : chosen) {
      plan_target(choice);
    }
    if (chosen.empty() && mistakes_.any() == false) {
      check_parameters_matched();
    }
    plan_saved_modules(names);
    plan_biases();
    note_tied_weights(chosen);
  }

 private:
  using Key = std::pair<std::size_t, std::size_t>;

  void check_parameters_matched() {
    if (lora_ && !lora_->target_parameters.empty()) {
      mistakes_.add(
          ErrorKind::target,
          concat(
              "target_parameters ", list_names(lora_->target_parameters),
              " meet no parameter that can take an adapter; name parameters "
              "of known layers, or register the class with "
              "peft::register_layer"));
    }
  }

  // PEFT nests the adapters of several bare parameters of one module: the last
  // one's keys stand on the module, each earlier one's one base_layer deeper.
  void count_bare(const std::vector<ChosenWeight>& chosen) {
    for (const ChosenWeight& choice : chosen) {
      if (is_bare(choice)) {
        ++bare_left_[choice.weight.layer];
      }
    }
  }

  bool is_bare(const ChosenWeight& choice) const {
    return choice.as_parameter ||
        layers_[choice.weight.layer].tensors[choice.weight.tensor].bare;
  }

  void plan_target(const ChosenWeight& choice) {
    const HostedLayer& layer = layers_[choice.weight.layer];
    const HostedTensor& tensor = layer.tensors[choice.weight.tensor];
    const std::string where = join_path(layer.path, tensor.name);
    Target target{
        .layer_path = layer.path,
        .layer_type = layer.type,
        .tensor_name = tensor.name,
        .file_prefix = layer.path,
        .pattern_path = layer.path,
        .layer = layer.seat,
        .base = tensor.base};
    if (choice.through != static_cast<std::size_t>(-1)) {
      const std::string& with = layers_[choice.through].path;
      target.file_prefix =
          with + ".base_layer" + layer.path.substr(with.size());
      target.pattern_path = with;
    } else if (is_bare(choice)) {
      for (int depth = --bare_left_[choice.weight.layer]; depth > 0; --depth) {
        target.holders.push_back("base_layer");
        target.file_prefix += ".base_layer";
      }
      check_bare(where);
    } else if (!tensor.holder.empty()) {
      target.holders = {tensor.holder};
      target.file_prefix = join_path(layer.path, tensor.holder);
    }
    auto method = method_entry(config_).make(config_, target.pattern_path);
    method->check(*tensor.layout, where, mistakes_);
    if (!at::isFloatingType(tensor.base.scalar_type())) {
      mistakes_.add(
          ErrorKind::unsupported,
          concat(
              where, ": adapters need a floating point weight, this one is ",
              c10::toString(tensor.base.scalar_type())));
    }
    check_ownership(tensor, where);
    plan_.targets.push_back({tensor, std::move(target), std::move(method)});
  }

  void check_bare(const std::string& where) {
    if (lora_ && lora_->fan_in_fan_out) {
      mistakes_.add(
          ErrorKind::config,
          concat(
              where, ": fan_in_fan_out has no meaning for a bare parameter; "
              "register it with WeightUse::linear_transposed instead"));
    }
    if (lora_ && lora_->lora_dropout > 0) {
      mistakes_.add(
          ErrorKind::config,
          concat(
              where, ": lora_dropout = ", lora_->lora_dropout, " cannot act on "
              "a bare parameter, whose input is not known; set it to 0"));
    }
  }

  void check_ownership(const HostedTensor& tensor, const std::string& where) {
    const auto* adapted = as_adapted(tensor.place->get());
    if (adapted && adapted->owner().get() != state_) {
      mistakes_.add(
          ErrorKind::state,
          concat(
              where, " is already adapted through another model or by "
              "peft::adapt; inject through the module those adapters were "
              "injected through"));
    }
  }

  void plan_saved_modules(const std::vector<ModuleName>& names) {
    for (const auto& chosen : match_modules_to_save(config_, names)) {
      bool any = false;
      for (const HostedLayer& layer : layers_) {
        if (layer.path == chosen || layer.path.starts_with(chosen + ".")) {
          any |= plan_saved_layer(layer, chosen);
        }
      }
      if (!any) {
        mistakes_.add(
            ErrorKind::target,
            concat("modules_to_save: '", chosen, "' has no tensors to train"));
      }
    }
  }

  bool plan_saved_layer(const HostedLayer& layer, const std::string& chosen) {
    if (!layer.unknown_tensors.empty()) {
      mistakes_.add(
          ErrorKind::unsupported,
          concat(
              "modules_to_save: '", chosen, "' holds '", layer.path, "', a ",
              layer.type, " whose tensors ", list_names(layer.unknown_tensors),
              " this library cannot swap; register the class with "
              "peft::register_layer"));
      return true;
    }
    for (const HostedTensor& tensor : layer.tensors) {
      if (!saved_.insert(join_path(layer.path, tensor.name)).second) {
        continue;  // chosen by two entries
      }
      check_ownership(tensor, join_path(layer.path, tensor.name));
      plan_.targets.push_back(
          {tensor,
           Target{
               .layer_path = layer.path,
               .layer_type = layer.type,
               .tensor_name = tensor.name,
               .file_prefix = layer.path,
               .pattern_path = layer.path,
               .is_saved_copy = true,
               .layer = layer.seat,
               .base = tensor.base},
           make_saved_copy(tensor.name, tensor.base, tensor.is_buffer)});
    }
    return !layer.tensors.empty();
  }

  void plan_biases() {
    if (!lora_ || lora_->bias == "none") {
      return;
    }
    for (const auto& other : state_ ? state_->names() : Names{}) {
      const auto* config =
          dynamic_cast<const LoraConfig*>(state_->find(other)->config.get());
      if (config && config->bias != "none") {
        mistakes_.add(
            ErrorKind::config,
            concat(
                "bias = \"", lora_->bias, "\": adapter '", other, "' already "
                "trains the model's biases (bias = \"", config->bias, "\"), "
                "and they are shared; set bias = \"none\" on one of them"));
      }
    }
    std::map<std::string, std::string> prefixes;  // of adapted layers
    for (const PlannedTarget& planned : plan_.targets) {
      if (!planned.target.is_saved_copy) {
        prefixes[planned.target.layer_path] = planned.target.file_prefix;
      }
    }
    for (const HostedLayer& layer : layers_) {
      plan_layer_bias(layer, prefixes);
    }
  }

  void plan_layer_bias(
      const HostedLayer& layer,
      const std::map<std::string, std::string>& prefixes) {
    const auto adapted = prefixes.find(layer.path);
    if (adapted == prefixes.end() && lora_->bias == "lora_only") {
      return;
    }
    for (const HostedTensor& tensor : layer.tensors) {
      if (tensor.name == "bias" && !tensor.is_buffer &&
          !saved_.contains(join_path(layer.path, "bias"))) {
        plan_.biases.push_back(
            {adapted == prefixes.end()
                 ? join_path(layer.path, "bias")
                 : join_path(adapted->second, "base_layer.bias"),
             tensor.base});
      }
    }
  }

  // A tensor of two layers is adapted where it was targeted, and nowhere else.
  void note_tied_weights(const std::vector<ChosenWeight>& chosen) {
    std::set<Key> targeted;
    for (const ChosenWeight& choice : chosen) {
      targeted.insert({choice.weight.layer, choice.weight.tensor});
    }
    for (const ChosenWeight& choice : chosen) {
      const auto& weight =
          layers_[choice.weight.layer].tensors[choice.weight.tensor];
      for (std::size_t i = 0; i < layers_.size(); ++i) {
        for (std::size_t t = 0; t < layers_[i].tensors.size(); ++t) {
          if (layers_[i].tensors[t].base.is_same(weight.base) &&
              !targeted.contains({i, t})) {
            plan_.report.notes.push_back(concat(
                "'", join_path(layers_[choice.weight.layer].path, weight.name),
                "' is the same tensor as '",
                join_path(layers_[i].path, layers_[i].tensors[t].name),
                "'; only the first is adapted, target both to adapt both"));
          }
        }
      }
    }
  }

  using Names = std::vector<std::string>;

  const AdapterConfig& config_;
  const LoraConfig* lora_;
  const ModelState* state_;
  const std::vector<HostedLayer> layers_;
  InjectionPlan& plan_;
  Mistakes& mistakes_;
  std::map<std::size_t, int> bare_left_;  // by layer
  std::set<std::string> saved_;           // tensor paths of saved modules
};

}  // namespace

InjectionPlan plan_injection(
    const AdapterConfig& config,
    const Host& host,
    const ModelState* state,
    const std::string& name) {
  Mistakes mistakes(
      ErrorKind::config,
      concat("cannot inject adapter '", name, "' into ", host.type()));
  check_name(name, state, mistakes);
  config.check(mistakes);
  mistakes.raise_if_any();
  InjectionPlan plan{.name = name, .config = config.clone()};
  Planner(config, host, state, plan, mistakes).run();
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
  try {
    mistakes.raise_if_any();
  } catch (const Error& error) {
    report.notes.insert(report.notes.begin(), error.what());
  }
  return report;
}

}  // namespace peft::detail
