// SPDX-License-Identifier: Apache-2.0
// What the report warns of, and its text.
#include "peft/match_report.h"

#include <string>

#include <gmock/gmock.h>

#include "matching/model_names.h"
#include "peft/lora_config.h"

namespace {

using peft::LoraConfig;
using peft::detail::match_targets;
using peft_test::linear;
using peft_test::two_layers;
using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(MatchReport, WarnsOfEveryPartThatMeetsNothing) {
  LoraConfig config;
  config.target_modules = {"q", "heads", "zzz"};
  config.exclude_modules = {"layers.1.v", "layers.7.v"};
  config.modules_to_save = {"nrom"};
  config.rank_pattern = {{"q", 4}, {"v", 2}};  // v is not adapted
  config.alpha_pattern = {{"[k]", 4}};
  const auto report = match_targets(config, two_layers());
  EXPECT_THAT(report.unmatched_targets, ElementsAre("heads", "zzz"));
  EXPECT_THAT(report.unmatched_excludes, ElementsAre("layers.7.v"));
  EXPECT_THAT(report.unmatched_modules_to_save, ElementsAre("nrom"));
  EXPECT_THAT(report.unmatched_rank_patterns, ElementsAre("v"));
  EXPECT_THAT(report.unmatched_alpha_patterns, ElementsAre("[k]"));
  EXPECT_THAT(
      report.warnings(),
      ElementsAre(
          "target_modules: 'heads' meets no module (did you mean 'head'?)",
          "target_modules: 'zzz' meets no module",
          AllOf(
              HasSubstr("exclude_modules: 'layers.7.v'"),
              HasSubstr("did you mean 'layers.0.v'?")),
          HasSubstr("modules_to_save: 'nrom'"),
          HasSubstr("rank_pattern: 'v' meets no adapted module"),
          HasSubstr("alpha_pattern: '[k]' meets no adapted module")));
}

TEST(MatchReport, CountsEntriesAsMetWhateverBecomesOfTheModule) {
  LoraConfig config;
  config.target_modules = {"q", "head", "layers.0.v"};
  config.exclude_modules = {"head"};
  config.layers_to_transform = {1};
  const auto report = match_targets(config, two_layers());
  EXPECT_THAT(report.adapted(), ElementsAre("m.layers.1.q"));
  EXPECT_THAT(report.warnings(), IsEmpty());
}

TEST(MatchReport, WarnsOfAPatternThatExcludesNothing) {
  LoraConfig config;
  config.target_modules = {"q"};
  config.exclude_modules = "layers";
  const auto report = match_targets(config, two_layers());
  EXPECT_THAT(report.unmatched_excludes, ElementsAre("layers"));
}

TEST(MatchReport, NotesRivalPatterns) {
  LoraConfig config;
  config.target_modules = {"q", "v"};
  config.rank_pattern = {{"q", 3}, {"layers.0.q", 4}, {"layers.1.q", 3}};
  const auto report = match_targets(config, two_layers());
  EXPECT_THAT(report.unmatched_rank_patterns, IsEmpty());
  EXPECT_THAT(
      report.notes,
      ElementsAre(AllOf(
          HasSubstr("rank_pattern: 'q' (3, used because it comes first)"),
          HasSubstr("'layers.0.q' (4) both match 'm.layers.0.q'"))));
}

TEST(MatchReport, IsATable) {
  LoraConfig config;
  config.target_modules = {"q", "k"};
  const auto report =
      match_targets(config, {linear("q"), linear("a_long_name.v")});
  EXPECT_EQ(
      report.to_string(),
      "module         type    adapted  reason\n"
      "q              Linear  yes      matches 'q'\n"
      "a_long_name.v  Linear  no       matches no target_modules\n"
      "1 of 2 modules get an adapter\n"
      "warning: target_modules: 'k' meets no module (did you mean 'q'?)\n");
}

TEST(MatchReport, HoldsTheMistakesWhenNothingMayBeThrown) {
  LoraConfig config;
  config.target_modules = {"nothing"};
  auto report = match_targets(config, two_layers(), /*throwing=*/false);
  EXPECT_THAT(report.notes.front(), HasSubstr("['nothing'] not found"));
  EXPECT_EQ(report.modules.size(), two_layers().size() - 1);

  config.target_modules = "q(";
  config.exclude_modules = "v(";
  report = match_targets(config, two_layers(), /*throwing=*/false);
  EXPECT_THAT(report.notes, ElementsAre(HasSubstr("'q('"), HasSubstr("'v('")));
  EXPECT_THAT(report.adapted(), IsEmpty());
  EXPECT_THAT(report.modules.front().reason, HasSubstr("not decided"));

  config.target_modules = R"((\w+)+)";
  config.exclude_modules = {};
  report = match_targets(
      config, {linear(std::string(60, 'a') + '-')}, /*throwing=*/false);
  EXPECT_THAT(report.notes, Contains(HasSubstr("too expensive")));
}

}  // namespace
