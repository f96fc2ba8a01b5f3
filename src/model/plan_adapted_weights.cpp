// SPDX-License-Identifier: Apache-2.0
// The weights that target_modules and target_parameters choose: where their
// adapters live, in the module tree and in files.
#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include <c10/core/ScalarType.h>

#include "base/text.h"
#include "hosting/adapted_tensor.h"
#include "matching/name_pattern.h"
#include "model/adopt_state_dict.h"
#include "model/layer_names.h"
#include "model/plan_parts.h"

namespace peft::detail {
namespace {

class WeightPlanner {
 public:
  explicit WeightPlanner(Planning& planning) : planning_(planning) {}

  void run(const std::vector<ModuleName>& names) {
    planning_.plan.report = match_targets(planning_.config, names);
    auto chosen = choose_weights(
        planning_.config, planning_.layers, planning_.plan.report);
    if (planning_.rules.ensure_weight_tying) {
      choose_tables(chosen);
    }
    count_bare(chosen);
    for (const ChosenWeight& choice : chosen) {
      plan_target(choice);
    }
    if (chosen.empty() && !planning_.mistakes.any()) {
      check_parameters_matched();
    }
  }

 private:
  // A head that is tied to a table is adapted through the table, as in PEFT.
  void choose_tables(std::vector<ChosenWeight>& chosen) {
    std::set<std::pair<std::size_t, std::size_t>> taken;
    std::vector<ChosenWeight> kept;
    for (ChosenWeight choice : chosen) {
      if (!choice.as_parameter) {
        choice.weight = table_of(choice.weight);
      }
      if (taken.insert({choice.weight.layer, choice.weight.tensor}).second) {
        kept.push_back(choice);
      }
    }
    const bool moved = !std::equal(
        chosen.begin(),
        chosen.end(),
        kept.begin(),
        kept.end(),
        [](const ChosenWeight& a, const ChosenWeight& b) {
          return a.weight.layer == b.weight.layer;
        });
    chosen = std::move(kept);
    if (moved) {
      name_layers(chosen);
    }
  }

  // The config says which layers have adapters, for whoever loads the file.
  void name_layers(const std::vector<ChosenWeight>& chosen) {
    std::vector<std::string> paths;
    for (const ChosenWeight& choice : chosen) {
      if (!choice.as_parameter) {
        paths.push_back(planning_.layers[choice.weight.layer].path);
      }
    }
    planning_.plan.config->target_modules =
        exact_choice(paths, planning_.layers);
  }

  TensorChoice table_of(const TensorChoice& weight) const {
    const at::Tensor& base =
        planning_.layers[weight.layer].tensors[weight.tensor].base;
    for (std::size_t i = 0; i < planning_.layers.size(); ++i) {
      const auto& tensors = planning_.layers[i].tensors;
      for (std::size_t t = 0; t < tensors.size(); ++t) {
        if (tensors[t].base.is_same(base) && tensors[t].layout &&
            tensors[t].layout->form == WeightLayout::Form::table) {
          return {i, t};
        }
      }
    }
    return weight;
  }

  void check_parameters_matched() {
    if (!planning_.rules.target_parameters.empty()) {
      const auto& layers = planning_.layers;
      planning_.mistakes.add(
          ErrorKind::target,
          concat(
              "target_parameters ",
              list_names(planning_.rules.target_parameters),
              " meet no parameter that can take an adapter",
              reasons(),
              "; ",
              std::any_of(layers.begin(), layers.end(), is_foreign)
                  ? "name floating-point parameters of two or three dimensions "
                    "that forward reads"
                  : "name parameters of known layers, or register the class "
                    "with peft::register_layer"));
    }
  }

  std::string reasons() const {
    std::string text;
    for (const std::string& name : planning_.rules.target_parameters) {
      text += why_no_parameter(planning_.layers, name);
    }
    return text;
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

  HostedTensor as_chosen(const ChosenWeight& choice) const {
    const HostedLayer& layer = planning_.layers[choice.weight.layer];
    HostedTensor tensor = layer.tensors[choice.weight.tensor];
    if (choice.as_parameter) {
      tensor.layout = as_parameter(tensor);
    }
    tensor.layout->without_operator = is_bare(choice);
    if (is_bare(choice)) {
      turn_as_others(tensor);
    }
    if (planning_.given.turned.contains(join_path(layer.path, tensor.name))) {
      tensor.layout = turned(*tensor.layout);
    }
    return tensor;
  }

  // PEFT reads a parameter as [outputs, inputs], or as a stack of such
  // matrices, whatever its layer does with it. Which way a stack lies its class
  // says.
  static WeightLayout as_parameter(const HostedTensor& tensor) {
    const auto& own = tensor.layout;
    if (own && own->form == WeightLayout::Form::stack) {
      return *own;
    }
    WeightLayout layout = WeightLayout::bare(tensor.base);
    layout.positions_first = own && own->positions_first;
    return layout;
  }

  // One weight is read in one way: as by the parameter's first adapter.
  static void turn_as_others(HostedTensor& tensor) {
    const auto* adapted = as_adapted(tensor.place->get());
    if (!adapted) {
      return;
    }
    const WeightLayout& first = adapted->weight()->layout();
    if (first.without_operator && first.form == tensor.layout->form &&
        first.inputs_first != tensor.layout->inputs_first) {
      tensor.layout = turned(*tensor.layout);
    }
  }

  void plan_target(const ChosenWeight& choice) {
    const HostedLayer& layer = planning_.layers[choice.weight.layer];
    HostedTensor tensor = as_chosen(choice);
    const auto bias = bias_of(layer, tensor);
    tensor.layout->has_bias = bias.has_value();
    const std::string where = join_path(layer.path, tensor.name);
    note_turned(where, *tensor.layout);
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
      target.pattern_path = bare_pattern_path(choice, where);
    } else if (!tensor.holder.empty()) {
      target.holders = {tensor.holder};
      target.file_prefix = join_path(layer.path, tensor.holder);
    }
    auto method =
        method_entry(planning_.config).make(planning_.config, target.name());
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
    PlannedTarget planned{tensor, std::move(target), std::move(method)};
    if (bias && planned.method->changes_bias()) {
      check_ownership(
          planning_, bias->hosted, join_path(layer.path, bias->hosted.name));
      planned.bias = bias;
    }
    planning_.plan.targets.push_back(std::move(planned));
  }

  void note_turned(const std::string& where, const WeightLayout& layout) {
    if (planning_.given.turned.contains(where)) {
      planning_.plan.report.notes.push_back(concat(
          "'",
          where,
          "' is read as ",
          layout.describe(),
          layout.inputs_first ? ", inputs first" : "",
          ", as only so the shapes that are loaded fit it; register it as "
          "WeightUse::",
          layout.inputs_first ? "linear_transposed" : "linear"));
    }
  }

  // The rows of the layer's bias that are added to what this weight gives.
  static std::optional<PlannedBias> bias_of(
      const HostedLayer& layer,
      const HostedTensor& weight) {
    const std::int64_t outputs = weight.layout->outputs;
    std::string name = weight.name;
    std::int64_t begin = 0;
    if (!weight.holder.empty() && name.ends_with("_proj_weight")) {
      // The three projections of an attention share one bias.
      name = "in_proj_weight";
      begin = outputs *
          (weight.holder == "q_proj"       ? 0
               : weight.holder == "k_proj" ? 1
                                           : 2);
    }
    const auto word = name.rfind("weight");
    if (word == std::string::npos || weight.layout->without_operator) {
      return std::nullopt;
    }
    name.replace(word, std::string_view("weight").size(), "bias");
    for (const HostedTensor& tensor : layer.tensors) {
      if (tensor.name == name && tensor.base.dim() == 1 &&
          tensor.base.size(0) >= begin + outputs) {
        return PlannedBias{tensor, {begin, begin + outputs}};
      }
    }
    return std::nullopt;
  }

  // target_parameters are asked about by the parameter's own path, as in PEFT.
  // The parameters of a targeted module go by the module's path, unless a
  // pattern speaks of the parameter.
  std::string bare_pattern_path(
      const ChosenWeight& choice,
      const std::string& parameter) const {
    const bool is_named =
        value_for_path(planning_.rules.rank_pattern, parameter) ||
        value_for_path(planning_.rules.alpha_pattern, parameter);
    return choice.as_parameter || is_named
        ? parameter
        : planning_.layers[choice.weight.layer].path;
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
