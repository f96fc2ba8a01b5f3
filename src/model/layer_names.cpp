// SPDX-License-Identifier: Apache-2.0
#include "model/layer_names.h"

#include <algorithm>
#include <set>

#include "base/text.h"
#include "hosting/program_layers.h"
#include "hosting/script_layer.h"
#include "matching/name_hints.h"
#include "matching/name_pattern.h"

namespace peft::detail {
namespace {

// Why a layer of a program or script takes no adapter.
std::string obstacle_of(const HostedLayer& layer) {
  for (const HostedTensor& tensor : layer.tensors) {
    if (layer.seat && is_computed(*layer.seat, tensor.base)) {
      return "it computes its weight in each forward, and PEFT makes its "
             "adapter's factors layers of the same class, which compute theirs "
             "in a way that a program does not tell";
    }
    if (tensor.base.dim() > 1 && !tensor.base.is_floating_point()) {
      return concat(
          "its '",
          tensor.name,
          "' is ",
          c10::toString(tensor.base.scalar_type()),
          ", and adapters need a floating-point weight");
    }
  }
  return "adapters stand on the weights of linear maps, lookups and "
         "convolutions, and its forward reads none of its own so";
}

// What PEFT's target_parameters can name: weights of 2 or 3 dimensions,
// whatever kind of layer has them.
bool is_target_parameter(const HostedTensor& tensor) {
  const auto dimensions = tensor.base.dim();
  return !tensor.is_buffer && tensor.base.is_floating_point() &&
      (dimensions == 2 || dimensions == 3);
}

std::string why_no_target_parameter(const HostedTensor& tensor) {
  if (tensor.is_buffer) {
    return "is a buffer";
  }
  return tensor.base.is_floating_point()
      ? concat("has ", tensor.base.dim(), " dimensions")
      : concat("is ", c10::toString(tensor.base.scalar_type()));
}

class Chooser {
 public:
  Chooser(const std::vector<HostedLayer>& layers, MatchReport& report)
      : layers_(layers), report_(report) {}

  void by_module() {
    const auto paths = report_.adapted();
    const std::set<std::string> chosen(paths.begin(), paths.end());
    // Companions first: what a MultiheadAttention brings along is not adapted
    // a second time under its own name.
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (chosen.contains(layers_[i].path)) {
        bring_companions(i, chosen);
      }
    }
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const HostedLayer& layer = layers_[i];
      const bool computes = std::any_of(
          layer.tensors.begin(), layer.tensors.end(), [&](const auto& tensor) {
            return tensor.layout && is_computed(layer, tensor);
          });
      for (std::size_t t = 0; t < layer.tensors.size(); ++t) {
        const HostedTensor& tensor = layer.tensors[t];
        const bool by_name =
            tensor.bare && chosen.contains(join_path(layer.path, tensor.name));
        // Of a layer that computes its weight, that weight is meant.
        const bool by_layer =
            chosen.contains(layer.path) && !(computes && tensor.bare);
        if (tensor.layout && (by_layer || by_name)) {
          add({{i, t}, npos, false});
        }
      }
    }
  }

  void by_parameter(const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      bool found = false;
      for (std::size_t i = 1; i < layers_.size(); ++i) {
        for (std::size_t t = 0; t < layers_[i].tensors.size(); ++t) {
          found |= try_parameter(name, i, t);
        }
      }
      if (!found) {
        report_.notes.push_back(concat(
            "target_parameters: '",
            name,
            "' meets no parameter that can take an adapter",
            why_no_parameter(layers_, name),
            suffix_hint(name, parameter_paths())));
      }
    }
  }

  std::vector<std::string> parameter_paths() const {
    std::vector<std::string> paths;
    for (const HostedLayer& layer : layers_) {
      for (const HostedTensor& tensor : layer.tensors) {
        if (is_target_parameter(tensor) && !is_computed(layer, tensor)) {
          paths.push_back(join_path(layer.path, tensor.name));
        }
      }
    }
    return paths;
  }

  // Matching knows modules only; keys that speak of chosen parameters meet
  // something after all.
  void forgive_parameter_keys() {
    for (auto* keys :
         {&report_.unmatched_rank_patterns,
          &report_.unmatched_alpha_patterns}) {
      std::erase_if(*keys, [&](const std::string& key) {
        return std::any_of(
            chosen_.begin(), chosen_.end(), [&](const ChosenWeight& choice) {
              const HostedLayer& layer = layers_[choice.weight.layer];
              return pattern_key_matches(
                  key,
                  join_path(
                      layer.path, layer.tensors[choice.weight.tensor].name));
            });
      });
    }
  }

  std::vector<ChosenWeight> in_model_order() {
    std::stable_sort(
        chosen_.begin(), chosen_.end(), [](const auto& a, const auto& b) {
          const auto place = [](const ChosenWeight& c) {
            return c.through == npos ? c.weight.layer : c.through;
          };
          return std::tuple(place(a), a.weight.layer, a.weight.tensor) <
              std::tuple(place(b), b.weight.layer, b.weight.tensor);
        });
    return std::move(chosen_);
  }

 private:
  static constexpr auto npos = static_cast<std::size_t>(-1);

  void bring_companions(
      std::size_t layer,
      const std::set<std::string>& chosen) {
    for (const auto& name : layers_[layer].companions) {
      const auto path = join_path(layers_[layer].path, name);
      for (std::size_t i = 0; i < layers_.size(); ++i) {
        if (layers_[i].path != path) {
          continue;
        }
        if (chosen.contains(path)) {
          report_.notes.push_back(concat(
              "'",
              path,
              "' is adapted once, as part of '",
              layers_[layer].path,
              "'"));
        }
        for (std::size_t t = 0; t < layers_[i].tensors.size(); ++t) {
          if (layers_[i].tensors[t].layout) {
            add({{i, t}, layer, false});
          }
        }
        report_companion(path, layers_[layer].path);
      }
    }
  }

  void report_companion(const std::string& path, const std::string& with) {
    for (auto& module : report_.modules) {
      if (module.path == path) {
        module.adapted = true;
        module.reason = concat("part of '", with, "'");
      }
    }
  }

  bool try_parameter(const std::string& name, std::size_t i, std::size_t t) {
    const HostedTensor& tensor = layers_[i].tensors[t];
    const auto path = join_path(layers_[i].path, tensor.name);
    if (!has_path_suffix(path, name) || is_computed(layers_[i], tensor)) {
      return false;  // a parameter is the model's own
    }
    const bool can = is_target_parameter(tensor);
    if (can) {
      add({{i, t}, npos, true});
    }
    report_.modules.push_back(
        {path,
         "parameter",
         can,
         can ? concat("target_parameters has '", name, "'")
             : std::string("not a floating-point parameter of 2 or 3 "
                           "dimensions")});
    return can;
  }

  void add(ChosenWeight choice) {
    const auto key = std::pair(choice.weight.layer, choice.weight.tensor);
    if (taken_.insert(key).second) {
      chosen_.push_back(choice);
    }
  }

  const std::vector<HostedLayer>& layers_;
  MatchReport& report_;
  std::vector<ChosenWeight> chosen_;
  std::set<std::pair<std::size_t, std::size_t>> taken_;
};

}  // namespace

bool is_foreign(const HostedLayer& layer) {
  return layer.seat &&
      (as_program_layer(*layer.seat) || as_script_layer(*layer.seat));
}

bool is_computed(const HostedLayer& layer, const HostedTensor& tensor) {
  return layer.seat && is_computed(*layer.seat, tensor.base);
}

std::vector<ModuleName> layer_names(const std::vector<HostedLayer>& layers) {
  std::vector<ModuleName> names;
  for (const HostedLayer& layer : layers) {
    names.push_back(
        {.path = layer.path,
         .others = layer.others,
         .type = layer.type,
         .supported = layer.adaptable(),
         .linear = layer.linear && layer.adaptable(),
         .obstacle = is_foreign(layer) && !layer.adaptable()
             ? obstacle_of(layer)
             : ""});
    for (const HostedTensor& tensor : layer.tensors) {
      if (tensor.bare && tensor.layout && !layer.path.empty()) {
        ModuleName name{
            .path = join_path(layer.path, tensor.name),
            .type = "parameter",
            .supported = true};
        for (const auto& other : layer.others) {
          name.others.push_back(join_path(other, tensor.name));
        }
        names.push_back(std::move(name));
      }
    }
  }
  return names;
}

std::string why_no_parameter(
    const std::vector<HostedLayer>& layers,
    const std::string& name) {
  const auto is_meant = [&](const HostedLayer& layer, const auto& tensor) {
    return has_path_suffix(join_path(layer.path, tensor), name);
  };
  for (const HostedLayer& layer : layers) {
    for (const std::string& tensor : layer.unknown_tensors) {
      if (is_meant(layer, tensor)) {
        return layer.path.empty()
            ? concat(
                  ": '",
                  tensor,
                  "' is the model's own, and adapters stand below a model "
                  "alone (as in PEFT): put it inside another module")
            : concat(
                  ": '",
                  join_path(layer.path, tensor),
                  "' is one of a ",
                  layer.type,
                  is_foreign(layer)
                      ? ", which the script reads from a list of its own; "
                        "export the model with torch.export instead"
                      : ", a class that this library does not know; register "
                        "it with peft::register_layer");
      }
    }
    for (const HostedTensor& tensor : layer.tensors) {
      if (is_meant(layer, tensor.name) && !is_target_parameter(tensor)) {
        return concat(
            ": '",
            join_path(layer.path, tensor.name),
            "' ",
            why_no_target_parameter(tensor),
            ", and floating-point parameters of 2 or 3 dimensions can (as in "
            "PEFT)");
      }
    }
  }
  return "";
}

std::vector<ChosenWeight> choose_weights(
    const AdapterConfig& config,
    const std::vector<HostedLayer>& layers,
    MatchReport& report) {
  Chooser chooser(layers, report);
  chooser.by_module();
  chooser.by_parameter(config.target_rules().target_parameters);
  chooser.forgive_parameter_keys();
  return chooser.in_model_order();
}

}  // namespace peft::detail
