// SPDX-License-Identifier: Apache-2.0
#include "matching/target_mistakes.h"

#include <set>

#include "base/text.h"
#include "matching/name_hints.h"

namespace peft::detail {
namespace {

std::vector<std::string> paths_where(
    const std::vector<ModuleName>& modules,
    bool ModuleName::*wanted) {
  std::vector<std::string> paths;
  for (const auto& module : modules) {
    if (!module.path.empty() && !module.inside_target && module.*wanted) {
      paths.push_back(module.path);
    }
  }
  return paths;
}

std::string available(const std::vector<ModuleName>& modules) {
  const auto paths = paths_where(modules, &ModuleName::supported);
  return paths.empty()
      ? "; no module of this model can be adapted by this method"
      : concat("; modules that can be adapted: ", list_names(paths, 10));
}

std::string layers_text(const AdapterConfig& config, std::size_t named) {
  const TargetRules rules = config.target_rules();
  if (rules.layers_to_transform.empty()) {
    return "";
  }
  std::vector<std::string> indexes;
  for (const auto index : rules.layers_to_transform) {
    indexes.push_back(std::to_string(index));
  }
  std::string text = concat(
      "; the names match ",
      named,
      " modules, but layers_to_transform takes only layers ",
      list_names(indexes, 10));
  if (!rules.layers_pattern.empty()) {
    text += concat(" after ", list_names(rules.layers_pattern));
  }
  return text;
}

std::size_t count_of(const Tally& tally, Standing standing) {
  const auto found = tally.find(standing);
  return found == tally.end() ? 0 : found->second;
}

// Nothing is excluded, and of `all` modules none is selected.
std::string not_found_text(
    const AdapterConfig& config,
    const std::vector<ModuleName>& modules,
    std::size_t all,
    std::size_t other_layer) {
  const auto& targets = config.target_modules;
  // PEFT takes "" for not given as well.
  const bool no_targets = targets.is_none() ||
      (targets.is_list() ? targets.names().empty() : targets.pattern().empty());
  if (no_targets) {
    return concat(
        "no target_modules are given, and no target_parameters; name some of "
        "the model's ",
        all,
        " modules, or use \"all-linear\"",
        available(modules));
  }
  if (is_all_linear(targets)) {
    return concat(
        "'all-linear' not found: the model's ",
        all,
        " modules hold no linear layer",
        available(modules));
  }
  const auto paths = paths_where(modules, &ModuleName::supported);
  return concat(
      "target_modules ",
      describe_choice(targets),
      " not found among the model's ",
      all,
      " modules",
      other_layer > 0 ? layers_text(config, other_layer)
                      : choice_hint(targets, paths),
      available(modules));
}

}  // namespace

std::string no_match_text(
    const AdapterConfig& config,
    const std::vector<ModuleName>& modules,
    const Tally& tally) {
  const std::size_t excluded = count_of(tally, Standing::excluded);
  const std::size_t other_layer = count_of(tally, Standing::other_layer);
  const std::size_t unmatched =
      count_of(tally, Standing::unmatched) + other_layer;
  const std::size_t all = excluded + unmatched;
  if (all == 0) {
    return "the model has no modules to choose from: a model that is itself a "
           "layer cannot be adapted; put it inside another module";
  }
  if (unmatched == 0) {
    return concat(
        "all modules were excluded: each of the ",
        all,
        " is in exclude_modules or modules_to_save; check both");
  }
  if (excluded == 0) {
    return not_found_text(config, modules, all, other_layer);
  }
  return concat(
      "no modules were targeted: of ",
      all,
      " modules ",
      excluded,
      " are in exclude_modules or modules_to_save, and of the others none "
      "matches target_modules ",
      describe_choice(config.target_modules),
      other_layer > 0 ? layers_text(config, other_layer) : "",
      available(modules));
}

std::vector<std::string> unsupported_texts(
    const std::vector<const ModuleName*>& chosen,
    const std::vector<ModuleName>& modules) {
  std::set<std::string> kinds;
  for (const auto& module : modules) {
    if (module.supported) {
      kinds.insert(module.type);
    }
  }
  const auto advice = [&](const std::string& obstacle) {
    if (kinds.empty()) {
      return std::string("this method can adapt no module of this model");
    }
    return concat(
        "of this model it can adapt ",
        list_names({kinds.begin(), kinds.end()}, 20),
        obstacle.empty() ? ": narrow target_modules, use exclude_modules, or "
                           "teach the library the class with "
                           "peft::register_layer"
                         : ": narrow target_modules or use exclude_modules");
  };
  using Kind = std::pair<std::string, std::string>;  // type, obstacle
  std::map<Kind, std::vector<std::string>> paths_by_kind;
  for (const ModuleName* module : chosen) {
    paths_by_kind[{module->type, module->obstacle}].push_back(module->path);
  }
  std::vector<std::string> texts;
  for (const auto& [kind, paths] : paths_by_kind) {
    const auto& [type, obstacle] = kind;
    texts.push_back(concat(
        "target_modules selects ",
        list_names(paths),
        " of type ",
        type,
        ", which this method cannot adapt",
        obstacle.empty() ? "" : concat(": ", obstacle),
        "; ",
        advice(obstacle)));
  }
  return texts;
}

}  // namespace peft::detail
