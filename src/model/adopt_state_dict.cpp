// SPDX-License-Identifier: Apache-2.0
#include "model/adopt_state_dict.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/text.h"
#include "base/warning.h"
#include "matching/name_pattern.h"
#include "matching/target_matcher.h"
#include "model/adapter_tensors.h"
#include "model/file_keys.h"
#include "model/layer_names.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

constexpr std::string_view alpha_ending = ".alpha";

std::string without_wrappers(std::string path) {
  constexpr std::string_view wrapper = ".base_layer";
  for (auto at = path.find(wrapper); at != std::string::npos;
       at = path.find(wrapper, at)) {
    const auto end = at + wrapper.size();
    if (end == path.size() || path[end] == '.') {  // a whole part
      path.erase(at, wrapper.size());
    } else {
      at = end;
    }
  }
  return path;
}

// What a tensor of one number says; nullopt where that is no real number.
std::optional<double> number_in(const at::Tensor& value) {
  const bool is_real = at::isIntegralType(value.scalar_type(), true) ||
      value.scalar_type() == at::kFloat || value.scalar_type() == at::kDouble ||
      value.scalar_type() == at::kHalf || value.scalar_type() == at::kBFloat16;
  if (value.numel() != 1 || !is_real || value.is_meta() ||
      value.layout() != at::kStrided) {
    return std::nullopt;
  }
  return value.item<double>();
}

class Adoption {
 public:
  Adoption(const MethodEntry& entry, const Host& host)
      : prefix_(entry.key_prefix), layers_(host.layers()) {}

  void take(const std::string& key, const at::Tensor& value) {
    const auto at = tensor_name_at(key, prefix_);
    const auto alpha =
        key.ends_with(alpha_ending) ? number_in(value) : std::nullopt;
    if (alpha) {
      found_[place_of(key.substr(0, key.size() - alpha_ending.size()))].alpha =
          alpha;
    } else if (at != std::string::npos) {
      found_[place_of(key.substr(0, at - 1))].shapes.emplace_back(
          without_adapter_name(key, prefix_).substr(at), value.sizes().vec());
    } else {
      others_.push_back(key);
    }
  }

  /// In the model's order; keys that meet no layer are left out and warned of.
  std::vector<StoredLayer> layers() {
    std::vector<StoredLayer> stored;
    for (const HostedLayer& layer : layers_) {
      const auto place = found_.find(layer.path);
      if (place == found_.end()) {
        continue;
      }
      place->second.path = layer.path;
      place->second.count = count_of(layer);
      if (!place->second.shapes.empty()) {
        stored.push_back(std::move(place->second));
      }
      found_.erase(place);
    }
    std::vector<std::string> lost;
    for (const auto& [path, layer] : found_) {
      lost.push_back(path);
    }
    if (!lost.empty() && !stored.empty()) {
      warn(concat(
          "state_dict has tensors for ",
          list_names(lost),
          ", which the model does not have"));
    }
    return stored;
  }

  /// Keys of nothing that a method's adapter has.
  const std::vector<std::string>& others() const { return others_; }
  const std::vector<HostedLayer>& model() const { return layers_; }

 private:
  // The layer that a key's front speaks of: itself, or the attention whose
  // separate projection or out_proj it names.
  std::string place_of(const std::string& front) const {
    const std::string path = without_wrappers(front);
    const auto dot = path.rfind('.');
    const std::string parent =
        dot == std::string::npos ? "" : path.substr(0, dot);
    const std::string name = path.substr(dot + 1);
    for (const HostedLayer& layer : layers_) {
      const auto& others = layer.others;
      if (std::find(others.begin(), others.end(), path) != others.end()) {
        return layer.path;
      }
      if (dot == std::string::npos || layer.path != parent) {
        continue;
      }
      const bool is_holder = std::any_of(
          layer.tensors.begin(), layer.tensors.end(), [&](const auto& tensor) {
            return tensor.holder == name;
          });
      const bool is_companion =
          std::find(layer.companions.begin(), layer.companions.end(), name) !=
          layer.companions.end();
      if (is_holder || (is_companion && path != front)) {
        return parent;
      }
    }
    return path;
  }

  static std::int64_t count_of(const HostedLayer& layer) {
    for (const HostedTensor& tensor : layer.tensors) {
      if (tensor.layout) {
        return tensor.layout->count;
      }
    }
    return 1;
  }

  std::string prefix_;
  std::vector<HostedLayer> layers_;
  std::map<std::string, StoredLayer> found_;
  std::vector<std::string> others_;
};

// Rows of tokens, saved modules and biases stand in the state dict without
// what a config says of them.
void warn_of_others(
    const AdapterConfig& config,
    const std::vector<std::string>& others) {
  const TargetRules rules = config.target_rules();
  if (!others.empty() && rules.trainable_token_indices.is_none() &&
      config.modules_to_save.empty() && rules.bias == "none") {
    warn(concat(
        "state_dict also has ",
        list_names(others),
        ", which no adapter layer has; they are left out unless the config "
        "says trainable_token_indices, modules_to_save or bias"));
  }
}

std::string escaped(const std::string& path) {
  return exact_path_key(path).substr(1);  // without the "^" of pattern keys
}

void warn_of_difference(
    const AdapterConfig& config,
    const std::vector<HostedLayer>& layers,
    const std::vector<std::string>& stored) {
  if (config.target_modules.is_none()) {
    return;
  }
  const auto chosen =
      match_targets(config, layer_names(layers), /*throwing=*/false).adapted();
  const std::set<std::string> a(chosen.begin(), chosen.end());
  const std::set<std::string> b(stored.begin(), stored.end());
  if (a != b) {
    warn(concat(
        "target_modules chooses ",
        list_names(chosen),
        " and the state_dict has tensors for ",
        list_names(stored),
        "; the state_dict is followed"));
  }
}

}  // namespace

ModuleChoice exact_choice(
    const std::vector<std::string>& paths,
    const std::vector<HostedLayer>& layers) {
  const std::set<std::string> wanted(paths.begin(), paths.end());
  const bool names_suffice =
      std::none_of(layers.begin(), layers.end(), [&](const HostedLayer& layer) {
        return !wanted.contains(layer.path) &&
            std::any_of(paths.begin(), paths.end(), [&](const auto& path) {
              return has_path_suffix(layer.path, path);
            });
      });
  if (names_suffice) {
    return ModuleChoice(paths);
  }
  std::string pattern;
  for (const std::string& path : paths) {
    pattern += concat(pattern.empty() ? "" : "|", escaped(path));
  }
  return ModuleChoice(concat("(?:", pattern, ")"));
}

std::unique_ptr<AdapterConfig> adopt_state_dict(
    const AdapterConfig& config,
    const Host& host,
    const StateDict& weights) {
  if (!config.target_rules().target_parameters.empty()) {
    throw Error(
        ErrorKind::config,
        "target_parameters and a state_dict to inject from cannot be combined: "
        "its keys do not tell which parameters they are for");
  }
  const MethodEntry& entry = method_entry(config);
  Adoption adoption(entry, host);
  for (const auto& item : weights) {
    adoption.take(without_prefix(item.key()), item.value());
  }
  Mistakes mistakes(ErrorKind::target, "cannot inject from the state_dict");
  check_spelling(adoption.others(), mistakes);
  explain_empty(weights, mistakes);
  mistakes.raise_if_any();
  const auto layers = adoption.layers();
  if (layers.empty()) {
    explain_unexpected(adoption.others(), mistakes);
    mistakes.raise_if_any();
    throw Error(
        ErrorKind::target,
        concat(
            "the state_dict has no tensor of a ",
            config.peft_type(),
            " adapter for a layer of this model (",
            weights.size(),
            " entries",
            weights.is_empty() ? ""
                               : concat(", such as '", weights[0].key(), "'"),
            "); its keys must be those of a saved adapter, as in "
            "'layer.path.",
            entry.key_prefix,
            "...'"));
  }
  std::vector<std::string> paths;
  for (const StoredLayer& layer : layers) {
    paths.push_back(layer.path);
  }
  warn_of_difference(config, adoption.model(), paths);
  warn_of_others(config, adoption.others());
  auto adopted = config.clone();
  adopted->target_modules = exact_choice(paths, adoption.model());
  adopted->exclude_modules = {};
  entry.adopt(*adopted, layers);
  return adopted;
}

}  // namespace peft::detail
