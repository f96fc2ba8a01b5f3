// SPDX-License-Identifier: Apache-2.0
// The weights that target_modules and target_parameters choose: where their
// adapters live, in the module tree and in files.
#include <map>
#include <set>

#include <c10/core/ScalarType.h>

#include "base/text.h"
#include "matching/name_pattern.h"
#include "model/layer_names.h"
#include "model/plan_parts.h"

namespace peft::detail {
namespace {

class WeightPlanner {
 public:
  explicit WeightPlanner(Planning& planning) : planning_(planning) {}

  void run(const std::vector<ModuleName>& names) {
    planning_.plan.report = match_targets(planning_.config, names);
    const auto chosen = choose_weights(
        planning_.config, planning_.layers, planning_.plan.report);
    count_bare(chosen);
    for (const ChosenWeight& choice : chosen) {
      plan_target(choice);
    }
    if (chosen.empty() && !planning_.mistakes.any()) {
      check_parameters_matched();
    }
    note_tied_weights(chosen);
  }

 private:
  using Key = std::pair<std::size_t, std::size_t>;

  void check_parameters_matched() {
    if (planning_.lora && !planning_.lora->target_parameters.empty()) {
      planning_.mistakes.add(
          ErrorKind::target,
          concat(
              "target_parameters ",
              list_names(planning_.lora->target_parameters),
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
        planning_.layers[choice.weight.layer]
            .tensors[choice.weight.tensor]
            .bare;
  }

  // PEFT reads the table of an Embedding in target_parameters as a matrix.
  HostedTensor as_chosen(const ChosenWeight& choice) const {
    HostedTensor tensor =
        planning_.layers[choice.weight.layer].tensors[choice.weight.tensor];
    if (choice.as_parameter &&
        tensor.layout->form == WeightLayout::Form::table) {
      tensor.layout = WeightLayout::bare(tensor.base);
    }
    return tensor;
  }

  void plan_target(const ChosenWeight& choice) {
    const HostedLayer& layer = planning_.layers[choice.weight.layer];
    const HostedTensor tensor = as_chosen(choice);
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
      const std::string& with = planning_.layers[choice.through].path;
      target.file_prefix =
          with + ".base_layer" + layer.path.substr(with.size());
      target.pattern_path = with;
    } else if (is_bare(choice)) {
      for (int depth = --bare_left_[choice.weight.layer]; depth > 0; --depth) {
        target.holders.push_back("base_layer");
        target.file_prefix += ".base_layer";
      }
      check_bare(where);
      target.pattern_path = bare_pattern_path(choice, where);
    } else if (!tensor.holder.empty()) {
      target.holders = {tensor.holder};
      target.file_prefix = join_path(layer.path, tensor.holder);
    }
    auto method = method_entry(planning_.config)
                      .make(planning_.config, target.pattern_path);
    method->check(*tensor.layout, where, planning_.mistakes);
    if (!is_adaptable_dtype(tensor.base.scalar_type())) {
      planning_.mistakes.add(
          ErrorKind::unsupported,
          concat(
              where,
              ": adapters need a float32, float64, bfloat16 or float16 weight, "
              "this one is ",
              c10::toString(tensor.base.scalar_type())));
    }
    check_ownership(planning_, tensor, where);
    planning_.plan.targets.push_back(
        {tensor, std::move(target), std::move(method)});
  }

  // target_parameters are asked about by the parameter's own path, as in PEFT.
  // The parameters of a targeted module go by the module's path, unless a
  // pattern speaks of the parameter.
  std::string bare_pattern_path(
      const ChosenWeight& choice,
      const std::string& parameter) const {
    const auto* lora = planning_.lora;
    const bool is_named = lora &&
        (value_for_path(lora->rank_pattern, parameter) ||
         value_for_path(lora->alpha_pattern, parameter));
    return choice.as_parameter || is_named
        ? parameter
        : planning_.layers[choice.weight.layer].path;
  }

  void check_bare(const std::string& where) {
    if (planning_.lora && planning_.lora->fan_in_fan_out) {
      planning_.mistakes.add(
          ErrorKind::config,
          concat(
              where,
              ": fan_in_fan_out has no meaning for a bare parameter; "
              "register it with WeightUse::linear_transposed instead"));
    }
    if (planning_.lora && planning_.lora->lora_dropout > 0) {
      planning_.mistakes.add(
          ErrorKind::config,
          concat(
              where,
              ": lora_dropout = ",
              planning_.lora->lora_dropout,
              " cannot act on "
              "a bare parameter, whose input is not known; set it to 0"));
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
          planning_.layers[choice.weight.layer].tensors[choice.weight.tensor];
      for (std::size_t i = 0; i < planning_.layers.size(); ++i) {
        for (std::size_t t = 0; t < planning_.layers[i].tensors.size(); ++t) {
          if (planning_.layers[i].tensors[t].base.is_same(weight.base) &&
              !targeted.contains({i, t})) {
            planning_.plan.report.notes.push_back(concat(
                "'",
                join_path(
                    planning_.layers[choice.weight.layer].path, weight.name),
                "' is the same tensor as '",
                join_path(
                    planning_.layers[i].path,
                    planning_.layers[i].tensors[t].name),
                "'; only the first is adapted, target both to adapt both"));
          }
        }
      }
    }
  }

  Planning& planning_;
  std::map<std::size_t, int> bare_left_;  // by layer
};

}  // namespace

void plan_adapted_weights(
    Planning& planning,
    const std::vector<ModuleName>& names) {
  WeightPlanner(planning).run(names);
}

}  // namespace peft::detail
