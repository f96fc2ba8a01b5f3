// SPDX-License-Identifier: Apache-2.0
#include "model/combine_checks.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/text.h"
#include "methods/finite.h"
#include "model/adapter_tensors.h"
#include "model/choose.h"
#include "model/lora_update.h"
#include "model/residence.h"

namespace peft::detail {
namespace {

using Type = Combination::Type;

const std::vector<std::pair<std::string, Type>>& combination_types() {
  static const std::vector<std::pair<std::string, Type>> types = {
      {"linear", Type::linear},
      {"cat", Type::cat},
      {"svd", Type::svd},
      {"ties", Type::ties},
      {"ties_svd", Type::ties_svd},
      {"dare_linear", Type::dare_linear},
      {"dare_linear_svd", Type::dare_linear_svd},
      {"dare_ties", Type::dare_ties},
      {"dare_ties_svd", Type::dare_ties_svd},
      {"magnitude_prune", Type::magnitude_prune},
      {"magnitude_prune_svd", Type::magnitude_prune_svd}};
  return types;
}

bool prunes(Type type) {
  return type != Type::linear && type != Type::cat && type != Type::svd;
}

class Options {
 public:
  Options(const CombineOptions& given, Mistakes& mistakes) {
    std::vector<std::string> names;
    bool found = false;
    for (const auto& [name, type] : combination_types()) {
      names.push_back(name);
      if (name == given.combination_type) {
        how_.type = type;
        found = true;
      }
    }
    if (!found) {
      mistakes.add(concat(
          "combination_type = '",
          given.combination_type,
          "'",
          did_you_mean(given.combination_type, names),
          "; there are ",
          list_names(names, 20)));
    }
    set_density(given, mistakes);
    set_svd(given, mistakes);
    if (given.majority_sign_method != "total" &&
        given.majority_sign_method != "frequency") {
      mistakes.add(concat(
          "majority_sign_method = '",
          given.majority_sign_method,
          "'; give \"total\" or \"frequency\""));
    }
    how_.majority = given.majority_sign_method == "frequency"
        ? MajoritySign::frequency
        : MajoritySign::total;
    how_.random = given.generator;
  }

  Combination& how() { return how_; }

 private:
  void set_density(const CombineOptions& given, Mistakes& mistakes) {
    if (!given.density) {
      if (prunes(how_.type)) {
        mistakes.add(concat(
            "combination_type = '",
            given.combination_type,
            "' prunes: set density, the share of values to keep"));
      }
      return;
    }
    how_.density = *given.density;
    if (!(how_.density >= 0 && how_.density <= 1)) {
      mistakes.add(concat("density = ", how_.density, "; give one in [0, 1]"));
    }
  }

  void set_svd(const CombineOptions& given, Mistakes& mistakes) {
    if (given.svd_rank && *given.svd_rank <= 0) {
      mistakes.add(
          concat("svd_rank = ", *given.svd_rank, "; give one above 0"));
    }
    if (given.svd_clamp && !(*given.svd_clamp > 0 && *given.svd_clamp <= 1)) {
      mistakes.add(concat(
          "svd_clamp = ", *given.svd_clamp, "; give a quantile in (0, 1]"));
    }
    how_.svd_clamp = given.svd_clamp;
  }

  Combination how_;
};

}  // namespace

Combination combination_of(const CombineOptions& options, Mistakes& mistakes) {
  return Options(options, mistakes).how();
}

std::vector<Source> find_sources(
    ModelState& state,
    const std::vector<std::string>& names,
    const std::vector<double>& weights,
    Mistakes& mistakes) {
  if (names.empty()) {
    mistakes.add("no adapters were given");
  }
  if (names.size() != weights.size()) {
    mistakes.add(concat(
        names.size(), " adapters and ", weights.size(), " weights are given"));
  }
  std::vector<Source> sources;
  auto records = look_up(state, names, mistakes);
  for (std::size_t i = 0; i < std::min(names.size(), weights.size()); ++i) {
    if (records[i]) {
      if (!std::isfinite(weights[i])) {
        mistakes.add(concat("the weight of '", names[i], "' is ", weights[i]));
      }
      sources.push_back({records[i], weights[i]});
    }
  }
  std::erase(records, nullptr);
  make_resident(state, records);
  return sources;
}

void check_kinds(const std::vector<Source>& sources, Mistakes& mistakes) {
  const std::string first = sources.front().record->config->peft_type();
  for (const Source& source : sources) {
    const std::string type = source.record->config->peft_type();
    if (type != first) {
      mistakes.add(concat(
          "'",
          sources.front().record->name,
          "' is of method ",
          first,
          " and '",
          source.record->name,
          "' of ",
          type,
          "; convert_to_lora makes them one"));
    } else if (type != "LORA" && type != "IA3") {
      mistakes.add(
          ErrorKind::unsupported,
          concat(
              "'",
              source.record->name,
              "' is of method ",
              type,
              ", which has no combination; convert_to_lora makes it LoRA"));
    }
  }
}

void check_parts(
    const std::vector<Source>& sources,
    const char* asking,
    Mistakes& mistakes) {
  std::map<const AdaptedWeight*, std::string> copies;
  for (const auto& [record, weight] : sources) {
    check_filled(*record, asking);
    for (const Target& target : record->targets) {
      for (const at::Tensor& values : target.attachment->parameters) {
        if (!is_finite(values)) {
          mistakes.add(concat(
              "'",
              record->name,
              "' has NaN or infinite values on '",
              target.layer_path,
              "'"));
        }
      }
      if (target.role == Role::token_rows) {
        mistakes.add(
            ErrorKind::unsupported,
            concat(
                "'",
                record->name,
                "' trains rows of '",
                target.layer_path,
                "' (trainable_token_indices), which are not combined"));
      }
      const auto update = target.of_method() ? update_of(target) : std::nullopt;
      if (update && !update->is_all) {
        mistakes.add(
            ErrorKind::unsupported,
            concat(
                "'",
                record->name,
                "' has DoRA's magnitudes on '",
                target.layer_path,
                "', which are not combined; convert_to_lora makes it plain"));
        break;
      }
      if (target.role == Role::trained_bias) {
        mistakes.add(
            ErrorKind::unsupported,
            concat(
                "'",
                record->name,
                "' trains the bias of '",
                target.layer_path,
                "' (bias in its config), which is not combined"));
      } else if (target.is_copy()) {
        const auto [place, is_new] =
            copies.try_emplace(target.weight.get(), record->name);
        if (!is_new) {
          mistakes.add(concat(
              "'",
              place->second,
              "' and '",
              record->name,
              "' both have their own copy of '",
              target.layer_path,
              "' (modules_to_save, or base_layer in its file)"));
        }
      }
    }
  }
}

}  // namespace peft::detail
