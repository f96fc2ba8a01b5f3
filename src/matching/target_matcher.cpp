// SPDX-License-Identifier: Apache-2.0
#include "matching/target_matcher.h"

#include "base/mistakes.h"
#include "base/text.h"
#include "matching/name_hints.h"
#include "matching/pattern_checks.h"
#include "matching/selection.h"
#include "matching/target_mistakes.h"

namespace peft::detail {
namespace {

class Matching {
 public:
  Matching(const AdapterConfig& config, const std::vector<ModuleName>& modules)
      : config_(config), modules_(modules), selection_(config, mistakes_) {}

  // Fills report() and mistakes(). Throws Error for a pattern too expensive
  // to match.
  void run() {
    const bool ready = mistakes_.empty();  // else a pattern does not compile
    for (const auto& module : modules_) {
      if (!module.path.empty()) {
        enter(
            module,
            ready ? selection_.judge(module)
                  : Verdict{Standing::unmatched, "not decided, see the notes"});
      }
    }
    if (!ready) {
      return;
    }
    report_unmet();
    check_targets();
  }

  MatchReport& report() { return report_; }
  std::vector<Mistake>& mistakes() { return mistakes_; }

 private:
  void enter(const ModuleName& module, Verdict verdict) {
    const bool adapted = verdict.standing == Standing::selected;
    ++tally_[verdict.standing];
    report_.modules.push_back(
        {module.path, module.type, adapted, std::move(verdict.reason)});
    if (verdict.standing == Standing::unsupported) {
      unsupported_.push_back(&module);
    }
  }

  void report_unmet() {
    report_.unmatched_targets = selection_.unmet_targets();
    report_.unmatched_excludes = selection_.unmet_excludes();
    report_.unmatched_modules_to_save = selection_.unmet_saved();
    report_.notes = selection_.notes();
    const TargetRules rules = config_.target_rules();
    const auto adapted = report_.adapted();
    auto ranks = check_patterns("rank_pattern", rules.rank_pattern, adapted);
    auto alphas = check_patterns("alpha_pattern", rules.alpha_pattern, adapted);
    report_.unmatched_rank_patterns = std::move(ranks.unmatched);
    report_.unmatched_alpha_patterns = std::move(alphas.unmatched);
    for (auto* notes : {&ranks.notes, &alphas.notes}) {
      report_.notes.insert(report_.notes.end(), notes->begin(), notes->end());
    }
  }

  void check_targets() {
    for (auto& text : unsupported_texts(unsupported_, modules_)) {
      mistakes_.emplace_back(ErrorKind::target, std::move(text));
    }
    const bool any = tally_[Standing::selected] > 0 || !unsupported_.empty();
    if (any || selection_.is_dummy()) {
      return;
    }
    const auto& targets = config_.target_modules;
    if (config_.target_rules().target_parameters.empty()) {
      mistakes_.emplace_back(
          ErrorKind::target, no_match_text(config_, modules_, tally_));
    } else if (
        targets.is_pattern() ||
        (targets.is_list() && !targets.names().empty())) {
      report_.notes.push_back(concat(
          "target_modules ",
          describe_choice(targets),
          " selects no module; only target_parameters can"));
    }
  }

  const AdapterConfig& config_;
  const std::vector<ModuleName>& modules_;
  std::vector<Mistake> mistakes_;
  Selection selection_;
  MatchReport report_;
  Tally tally_;
  std::vector<const ModuleName*> unsupported_;
};

}  // namespace

MatchReport match_targets(
    const AdapterConfig& config,
    const std::vector<ModuleName>& modules,
    bool throwing) {
  Matching matching(config, modules);
  try {
    matching.run();
  } catch (const Error& error) {
    matching.mistakes().emplace_back(error.kind(), error.what());
  }
  if (throwing) {
    Mistakes mistakes(ErrorKind::target, "cannot choose the modules to adapt");
    for (auto& [kind, text] : matching.mistakes()) {
      mistakes.add(kind, std::move(text));
    }
    mistakes.raise_if_any();
  }
  MatchReport report = std::move(matching.report());
  std::vector<std::string> texts;
  for (auto& [kind, text] : matching.mistakes()) {
    texts.push_back(std::move(text));
  }
  report.notes.insert(report.notes.begin(), texts.begin(), texts.end());
  return report;
}

std::vector<std::string> match_modules_to_save(
    const AdapterConfig& config,
    const std::vector<ModuleName>& modules) {
  ChoiceMatcher saved{ModuleChoice(config.modules_to_save)};
  std::vector<std::string> names;
  const auto add = [&](const std::string& path) {
    if (!path.empty() && saved.find(path)) {
      names.push_back(path);
    }
  };
  for (const auto& module : modules) {
    if (!module.inside_target) {
      add(module.path);
      for (const auto& path : module.others) {
        add(path);
      }
    }
  }
  return names;
}

}  // namespace peft::detail
