// SPDX-License-Identifier: Apache-2.0
// What is selected, what is left out, and the reason each module is given.
#include "matching/target_matcher.h"

#include <string>

#include <gmock/gmock.h>

#include "matching/model_names.h"
#include "peft/lora_config.h"

namespace {

using peft::LoraConfig;
using peft::MatchReport;
using peft::detail::match_modules_to_save;
using peft::detail::match_targets;
using peft::detail::ModuleName;
using peft_test::linear;
using peft_test::of_type;
using peft_test::two_layers;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::string reason(const MatchReport& report, const std::string& path) {
  for (const auto& module : report.modules) {
    if (module.path == path) {
      return module.reason;
    }
  }
  return "no such module";
}

TEST(MatchTargets, SelectsByPathOrEnding) {
  LoraConfig config;
  config.target_modules = {"q", "head"};
  const auto report = match_targets(config, two_layers());
  EXPECT_THAT(
      report.adapted(), ElementsAre("m.layers.0.q", "m.layers.1.q", "head"));
  EXPECT_EQ(report.modules.size(), two_layers().size() - 1);  // no root
  EXPECT_EQ(reason(report, "head"), "matches 'head'");
  EXPECT_EQ(reason(report, "m.norm"), "matches no target_modules");
  EXPECT_THAT(report.warnings(), IsEmpty());
}

TEST(MatchTargets, ComparesEndingsAtADotOnly) {
  LoraConfig config;
  config.target_modules = {"q", "1.fc"};
  const auto report = match_targets(
      config,
      {linear("my_q"), linear("q"), linear("a.1.fc"), linear("a.11.fc")});
  EXPECT_THAT(report.adapted(), ElementsAre("q", "a.1.fc"));
}

TEST(MatchTargets, SelectsByRegexOfTheWholePath) {
  LoraConfig config;
  config.target_modules = R"(.*\.[01]\.v)";
  const auto report = match_targets(config, two_layers());
  EXPECT_THAT(report.adapted(), ElementsAre("m.layers.0.v", "m.layers.1.v"));
}

TEST(MatchTargets, SelectsAllLinear) {
  LoraConfig config;
  config.target_modules = "All-Linear";
  config.exclude_modules = {"head"};
  auto modules = two_layers();
  modules.push_back(of_type("Embedding", "x.q"));  // ends like a linear layer
  const auto report = match_targets(config, modules);
  EXPECT_THAT(
      report.adapted(),
      ElementsAre(
          "m.layers.0.q", "m.layers.0.v", "m.layers.1.q", "m.layers.1.v"));
  EXPECT_EQ(reason(report, "x.q"), "not linear ('all-linear')");
}

TEST(MatchTargets, LetsTheDummySelectNothing) {
  LoraConfig config;
  config.target_modules = "dummy-target-modules";
  const auto report = match_targets(config, two_layers());
  EXPECT_THAT(report.adapted(), IsEmpty());
  EXPECT_THAT(reason(report, "head"), HasSubstr("selects nothing"));
  EXPECT_THAT(report.warnings(), IsEmpty());
}

TEST(MatchTargets, LeavesOutExcludedModules) {
  LoraConfig config;
  config.target_modules = {"q", "v"};
  config.exclude_modules = R"(m\.layers\.0\..*)";
  auto report = match_targets(config, two_layers());
  EXPECT_THAT(report.adapted(), ElementsAre("m.layers.1.q", "m.layers.1.v"));
  EXPECT_THAT(reason(report, "m.layers.0.q"), HasSubstr("exclude_modules"));
  config.exclude_modules = {"v", "0.q"};
  report = match_targets(config, two_layers());
  EXPECT_THAT(report.adapted(), ElementsAre("m.layers.1.q"));
}

TEST(MatchTargets, LeavesOutWhatModulesToSaveKeeps) {
  LoraConfig config;
  config.target_modules = {"q", "fc"};
  config.modules_to_save = {"head"};
  const std::vector<ModuleName> modules = {
      linear("q"),
      of_type("Block", "head", false),
      linear("head.fc"),
      linear("my_head.fc"),
      linear("a.head.fc.fc")};
  const auto report = match_targets(config, modules);
  EXPECT_THAT(report.adapted(), ElementsAre("q", "my_head.fc"));
  EXPECT_EQ(reason(report, "head"), "trained whole: 'head' in modules_to_save");
  EXPECT_THAT(
      reason(report, "a.head.fc.fc"), HasSubstr("inside a module trained"));
  EXPECT_THAT(match_modules_to_save(config, modules), ElementsAre("head"));
}

TEST(MatchTargets, FiltersByLayer) {
  LoraConfig config;
  config.target_modules = {"q"};
  config.layers_to_transform = {1};
  const auto report = match_targets(config, two_layers());
  EXPECT_THAT(report.adapted(), ElementsAre("m.layers.1.q"));
  EXPECT_EQ(reason(report, "m.layers.1.q"), "matches 'q', layer 1");
  EXPECT_EQ(
      reason(report, "m.layers.0.q"),
      "matches 'q', but layer 0 is not in layers_to_transform");
}

TEST(MatchTargets, FiltersByLayerAtTheRoot) {
  LoraConfig config;
  config.target_modules = {"q"};
  config.layers_to_transform = {1};
  const auto report = match_targets(
      config, {linear("layers.0.q"), linear("layers.1.q"), linear("q")});
  EXPECT_THAT(report.adapted(), ElementsAre("layers.1.q", "q"));
}

TEST(MatchTargets, NotesWholePathsThatSkipTheLayerFilter) {
  LoraConfig config;
  config.target_modules = {"m.layers.0.q", "v"};
  config.layers_to_transform = {1};
  const auto report = match_targets(config, two_layers());
  EXPECT_THAT(report.adapted(), ElementsAre("m.layers.0.q", "m.layers.1.v"));
  EXPECT_THAT(
      report.notes,
      ElementsAre(AllOf(HasSubstr("'m.layers.0.q'"), HasSubstr("in full"))));
}

TEST(MatchTargets, NotesInnerIndexesTakenForLayers) {
  LoraConfig config;
  config.target_modules = {"w"};
  config.layers_to_transform = {0};
  const auto report = match_targets(config, {linear("layers.1.experts.0.w")});
  EXPECT_THAT(
      report.notes,
      ElementsAre(AllOf(
          HasSubstr("takes 0"),
          HasSubstr("not 1"),
          HasSubstr("layers_pattern = {\"layers\"}"))));
}

TEST(MatchTargets, AsksAllPathsOfASharedModule) {
  ModuleName shared = linear("a.fc");
  shared.others = {"b.q"};
  LoraConfig config;
  config.target_modules = {"q"};
  auto report = match_targets(config, {shared});
  EXPECT_THAT(report.adapted(), ElementsAre("a.fc"));
  EXPECT_EQ(reason(report, "a.fc"), "matches 'q', being also 'b.q'");

  config.exclude_modules = {"a.fc"};
  report = match_targets(config, {shared, linear("q")});
  EXPECT_THAT(report.adapted(), ElementsAre("q"));

  config.modules_to_save = {"q", "fc"};
  EXPECT_THAT(
      match_modules_to_save(config, {shared}), ElementsAre("a.fc", "b.q"));
}

TEST(MatchTargets, SkipsWhatIsInsideAdaptedLayers) {
  ModuleName inner = linear("q.lora_A");
  inner.inside_target = true;
  LoraConfig config;
  config.target_modules = {"q", "lora_A"};
  config.modules_to_save = {"lora_A"};
  const auto report = match_targets(config, {linear("q"), inner});
  EXPECT_THAT(report.adapted(), ElementsAre("q"));
  EXPECT_EQ(reason(report, "q.lora_A"), "part of a layer that has adapters");
  EXPECT_THAT(report.unmatched_targets, ElementsAre("lora_A"));
  EXPECT_THAT(match_modules_to_save(config, {inner}), IsEmpty());
}

}  // namespace
