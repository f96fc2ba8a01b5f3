// SPDX-License-Identifier: Apache-2.0
#include "matching/selection.h"

#include "base/text.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

// Calls `compile`; what it cannot compile becomes a mistake of `field`.
template <class Compile>
void collect_mistake(
    const char* field,
    std::vector<Mistake>& mistakes,
    Compile compile) {
  try {
    compile();
  } catch (const Error& error) {
    mistakes.emplace_back(error.kind(), concat(field, ": ", error.what()));
  }
}

}  // namespace

Selection::Selection(
    const AdapterConfig& config,
    std::vector<Mistake>& mistakes) {
  ModuleChoice targets = config.target_modules;
  if (is_all_linear(targets)) {
    form_ = Form::all_linear;
    targets = {};
  } else if (targets == ModuleChoice("dummy-target-modules")) {
    form_ = Form::dummy;
    targets = {};
  }
  collect_mistake("target_modules", mistakes, [&] {
    targets_.emplace(std::move(targets));
  });
  collect_mistake("exclude_modules", mistakes, [&] {
    excludes_.emplace(config.exclude_modules);
  });
  saved_.emplace(ModuleChoice(config.modules_to_save));
  const TargetRules rules = config.target_rules();
  collect_mistake("layers_pattern", mistakes, [&] {
    layers_ = LayerFilter(rules.layers_to_transform, rules.layers_pattern);
  });
  for (const auto& [key, rank] : rules.rank_pattern) {
    collect_mistake("rank_pattern", mistakes, [&, &key = key] {
      pattern_key_matches(key, "?");
    });
  }
  for (const auto& [key, alpha] : rules.alpha_pattern) {
    collect_mistake("alpha_pattern", mistakes, [&, &key = key] {
      pattern_key_matches(key, "?");
    });
  }
}

// Left out by exclude_modules or modules_to_save.
std::optional<Verdict> Selection::judge_exclusion(const std::string& path) {
  const auto excluded = excludes_->find(path);
  const auto saved = saved_->find_around(path);
  if (excluded) {
    return Verdict{
        Standing::excluded,
        concat("excluded by '", excluded->part, "' in exclude_modules")};
  }
  if (!saved) {
    return std::nullopt;
  }
  const bool itself = has_path_suffix(path, saved->part);
  return Verdict{
      Standing::excluded,
      concat(
          itself ? "trained whole: '" : "inside a module trained whole: '",
          saved->part,
          "' in modules_to_save")};
}

// Whether the names or the pattern of target_modules choose the path, and
// then layers_to_transform.
std::optional<Verdict> Selection::judge_target(
    const std::string& path,
    bool noting) {
  const auto hit = targets_->find(path);
  if (!hit) {
    return std::nullopt;
  }
  std::string reason = concat("matches '", hit->part, "'");
  if (!layers_.is_on()) {
    return Verdict{Standing::selected, reason};
  }
  const auto index = layers_.index_of(path);
  const bool takes = index && layers_.takes(*index);
  if (hit->exact) {  // as in PEFT: a whole path needs no layer
    if (!takes && noting) {
      named_in_full_.push_back(path);
    }
    return Verdict{Standing::selected, reason};
  }
  if (noting && layers_.overlooked_index(path)) {
    inner_index_.push_back(path);
  }
  if (!index) {
    reason += ", but its path has no layer index";
    return Verdict{Standing::other_layer, reason};
  }
  reason += concat(takes ? ", layer " : ", but layer ", *index);
  reason += takes ? "" : " is not in layers_to_transform";
  return Verdict{takes ? Standing::selected : Standing::other_layer, reason};
}

// What target_modules says of a module: the paths are those of one object, so
// being chosen under one of them chooses it.
Verdict Selection::judge_targets(
    const std::vector<std::string>& paths,
    bool noting) {
  std::optional<Verdict> best;
  for (const auto& path : paths) {
    auto verdict = judge_target(path, noting);
    if (!verdict) {
      continue;
    }
    if (path != paths.front()) {
      verdict->reason += concat(", being also '", path, "'");
    }
    const bool better = best && best->standing != Standing::selected &&
        verdict->standing == Standing::selected;
    if (!best || better) {
      best = std::move(verdict);
    }
  }
  return best ? *best
              : Verdict{Standing::unmatched, "matches no target_modules"};
}

Verdict Selection::judge(const ModuleName& module) {
  if (module.inside_target) {
    return {Standing::inside_target, "part of a layer that has adapters"};
  }
  std::vector<std::string> paths = {module.path};
  paths.insert(paths.end(), module.others.begin(), module.others.end());
  // Every path is asked everything, so that what it meets is known to be met.
  std::optional<Verdict> excluded;
  for (const auto& path : paths) {
    const auto exclusion = judge_exclusion(path);
    excluded = excluded ? excluded : exclusion;
  }
  Verdict verdict = judge_targets(paths, /*noting=*/!excluded);
  if (excluded) {
    return *excluded;
  }
  if (form_ == Form::dummy) {
    return {Standing::unmatched, "'dummy-target-modules' selects nothing"};
  }
  if (form_ == Form::all_linear) {
    verdict = module.linear
        ? Verdict{Standing::selected, "linear ('all-linear')"}
        : Verdict{Standing::unmatched, "not linear ('all-linear')"};
  }
  if (verdict.standing == Standing::selected && !module.supported) {
    return {
        Standing::unsupported,
        concat(verdict.reason, ", but cannot be adapted")};
  }
  return verdict;
}

std::vector<std::string> Selection::notes() const {
  std::vector<std::string> notes;
  if (!named_in_full_.empty()) {
    notes.push_back(concat(
        "layers_to_transform does not apply to ",
        list_names(named_in_full_),
        ", named in full in target_modules"));
  }
  if (!inner_index_.empty()) {
    const std::string& path = inner_index_.front();
    notes.push_back(concat(
        "layers_to_transform takes ",
        *layers_.index_of(path),
        " as the layer of '",
        path,
        "', not ",
        *layers_.overlooked_index(path),
        " (as Python PEFT does; modules concerned: ",
        inner_index_.size(),
        "); set layers_pattern = {\"",
        path.substr(0, path.find('.')),
        "\"} for the other"));
  }
  return notes;
}

}  // namespace peft::detail
