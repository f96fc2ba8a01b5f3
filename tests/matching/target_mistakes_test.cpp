// SPDX-License-Identifier: Apache-2.0
// Choices that cannot be used: PEFT's four ways to select nothing, modules of
// kinds that cannot be adapted, patterns that are no regexes.
#include <string>

#include <gmock/gmock.h>

#include "matching/model_names.h"
#include "peft/lora_config.h"
#include "support/error_of.h"

namespace {

using peft::ErrorKind;
using peft::LoraConfig;
using peft::detail::match_targets;
using peft::detail::ModuleName;
using peft_test::error_of;
using peft_test::linear;
using peft_test::of_type;
using peft_test::two_layers;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::string mistake(
    const LoraConfig& config,
    const std::vector<ModuleName>& modules = two_layers(),
    ErrorKind kind = ErrorKind::target) {
  return error_of(kind, [&] { match_targets(config, modules); });
}

TEST(NoMatch, SaysWhenAllIsExcluded) {
  LoraConfig config;
  config.target_modules = {"q"};
  config.exclude_modules = ".*";
  EXPECT_THAT(
      mistake(config),
      AllOf(
          HasSubstr("all modules were excluded"), HasSubstr("each of the 10")));
}

TEST(NoMatch, SaysWhenThereAreNoTargets) {
  LoraConfig config;
  const auto expected = AllOf(
      HasSubstr("no target_modules are given"),
      HasSubstr("10 modules"),
      HasSubstr("'m.layers.0.q', 'm.layers.0.v'"));
  EXPECT_THAT(mistake(config), expected);
  config.target_modules = std::vector<std::string>{};
  EXPECT_THAT(mistake(config), expected);
  config.target_modules = "";
  EXPECT_THAT(mistake(config), expected);
}

TEST(NoMatch, GuessesWhatWasMeant) {
  LoraConfig config;
  config.target_modules = {"heads"};
  EXPECT_THAT(
      mistake(config),
      AllOf(
          HasSubstr("target_modules ['heads'] not found among the model's 10"),
          HasSubstr("did you mean 'head'?"),
          HasSubstr("modules that can be adapted: 'm.layers.0.q'")));
  config.target_modules = "q";
  EXPECT_THAT(mistake(config), HasSubstr("the list {\"q\"} selects"));
  config.target_modules = {".*q"};
  EXPECT_THAT(mistake(config), HasSubstr("give the one string \".*q\""));
}

TEST(NoMatch, NamesAtMostTenModules) {
  std::vector<ModuleName> modules;
  for (int i = 0; i < 40; ++i) {
    modules.push_back(linear("l" + std::to_string(i)));
  }
  LoraConfig config;
  config.target_modules = {"none_of_them"};
  EXPECT_THAT(
      mistake(config, modules),
      AllOf(HasSubstr("'l9' and 30 more"), Not(HasSubstr("'l10'"))));
}

TEST(NoMatch, SaysWhenOnlyTheLayersAreWrong) {
  LoraConfig config;
  config.target_modules = {"q"};
  config.layers_to_transform = {7, 8};
  config.layers_pattern = {"layers"};
  EXPECT_THAT(
      mistake(config),
      AllOf(
          HasSubstr("the names match 2 modules"),
          HasSubstr("only layers '7', '8' after 'layers'")));
}

TEST(NoMatch, SaysWhenSomeAreExcludedAndTheRestIsNotFound) {
  LoraConfig config;
  config.target_modules = {"q"};
  config.exclude_modules = {"q"};
  EXPECT_THAT(
      mistake(config),
      AllOf(
          HasSubstr("no modules were targeted"), HasSubstr("of 10 modules 2")));
}

TEST(NoMatch, SaysWhenThereIsNoLinearLayer) {
  LoraConfig config;
  config.target_modules = "all-linear";
  EXPECT_THAT(
      mistake(config, {of_type("Embedding", "emb")}),
      AllOf(HasSubstr("'all-linear' not found"), HasSubstr("'emb'")));
}

TEST(NoMatch, SaysWhenTheModelIsALayer) {
  LoraConfig config;
  config.target_modules = {"q"};
  EXPECT_THAT(
      mistake(config, {linear("")}), HasSubstr("inside another module"));
}

TEST(NoMatch, IsNoErrorBesideTargetParameters) {
  LoraConfig config;
  config.target_parameters = {"experts.w1"};
  auto report = match_targets(config, two_layers());
  EXPECT_THAT(report.adapted(), IsEmpty());
  EXPECT_THAT(report.warnings(), IsEmpty());
  config.target_modules = {"nothing"};
  report = match_targets(config, two_layers());
  EXPECT_THAT(
      report.notes,
      testing::ElementsAre(HasSubstr("only target_parameters can")));
}

TEST(Unsupported, ListsAllSelectedModulesByType) {
  LoraConfig config;
  config.target_modules = ".*";
  const std::string text = mistake(config);
  EXPECT_THAT(
      text,
      AllOf(
          HasSubstr("4 mistakes"),
          HasSubstr("selects 'm.layers.0', 'm.layers.1' of type Layer"),
          HasSubstr("'m.norm' of type LayerNorm"),
          HasSubstr("it can adapt 'Linear'")));
}

TEST(Unsupported, IsFoundBesideModulesThatCanBeAdapted) {
  LoraConfig config;
  config.target_modules = {"q", "norm"};
  EXPECT_THAT(
      mistake(config),
      AllOf(HasSubstr("'m.norm' of type LayerNorm"), Not(HasSubstr("'m.l"))));
  config.exclude_modules = {"norm"};
  EXPECT_NO_THROW(match_targets(config, two_layers()));
}

TEST(BrokenPatterns, AreAllNamed) {
  LoraConfig config;
  config.target_modules = "t(";
  config.exclude_modules = "e(";
  config.layers_to_transform = {1};
  config.layers_pattern = {"l("};
  config.rank_pattern = {{"r(", 1}};
  config.alpha_pattern = {{"a(", 1}};
  EXPECT_THAT(
      mistake(config, two_layers(), ErrorKind::config),
      AllOf(
          HasSubstr("target_modules: 't('"),
          HasSubstr("exclude_modules: 'e('"),
          HasSubstr("layers_pattern: "),
          HasSubstr("rank_pattern: 'r('"),
          HasSubstr("alpha_pattern: 'a('")));
}

}  // namespace
