// SPDX-License-Identifier: Apache-2.0
// Reading adapter_config.json: what each field accepts. Files that are broken
// as a whole are in broken_config_test.cpp.
#include <string>

#include <gmock/gmock.h>

#include "peft/lora_config.h"
#include "support/check_config.h"
#include "support/collect_warnings.h"

namespace {

using peft::LoraConfig;
using peft_test::CollectWarnings;
using peft_test::field_mistake;
using peft_test::lora;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

TEST(ParseConfig, NeedsOnlyThePeftType) {
  const LoraConfig config = lora("");
  EXPECT_EQ(config.r, 8);
  EXPECT_EQ(config.lora_alpha, 8);
  EXPECT_TRUE(config.target_modules.is_none());
  EXPECT_TRUE(config.init_lora_weights.is_default());
}

TEST(ParseConfig, KeepsTheOrderOfPatterns) {
  const LoraConfig config = lora(
      R"("rank_pattern": {"q": 3, "a.q": 4},
         "alpha_pattern": {"z": 1.5, "b": 2})");
  EXPECT_THAT(config.rank_pattern, ElementsAre(Pair("q", 3), Pair("a.q", 4)));
  EXPECT_THAT(config.alpha_pattern, ElementsAre(Pair("z", 1.5), Pair("b", 2)));
}

TEST(ParseConfig, ReadsTheShapesOfModuleChoices) {
  EXPECT_TRUE(lora(R"("target_modules": null)").target_modules.is_none());
  EXPECT_EQ(lora(R"("target_modules": ".*q")").target_modules.pattern(), ".*q");
  EXPECT_THAT(
      lora(R"("target_modules": ["v", "q"])").target_modules.names(),
      ElementsAre("v", "q"));
  EXPECT_TRUE(lora(R"("target_modules": [])").target_modules.is_list());
}

TEST(ParseConfig, ReadsSingleValuesWherePeftAllowsThem) {
  const LoraConfig config =
      lora(R"("layers_to_transform": 3, "layers_pattern": "h")");
  EXPECT_THAT(config.layers_to_transform.values(), ElementsAre(3));
  EXPECT_THAT(config.layers_pattern.values(), ElementsAre("h"));
  EXPECT_THAT(lora(R"("layers_pattern": "")").layers_pattern, IsEmpty());
}

TEST(ParseConfig, TakesNullForTheDefault) {
  const LoraConfig config = lora(
      R"("r": null, "lora_alpha": null, "lora_dropout": null, "bias": null,
         "rank_pattern": null, "alpha_pattern": null, "use_dora": null,
         "modules_to_save": null, "layers_to_transform": null)");
  EXPECT_EQ(config.r, 8);
  EXPECT_EQ(config.lora_alpha, 8);
  EXPECT_EQ(config.bias, "none");
  EXPECT_THAT(config.rank_pattern, IsEmpty());
}

TEST(ParseConfig, TakesNullInitialisationForNone) {
  const auto init = lora(R"("init_lora_weights": null)").init_lora_weights;
  EXPECT_FALSE(init.is_default());
  EXPECT_FALSE(init.is_named());
}

TEST(ParseConfig, NamesEveryWrongTypeAtOnce) {
  EXPECT_THAT(
      field_mistake(
          R"("r": "8", "lora_alpha": true, "bias": 1, "use_dora": "yes",
             "target_modules": ["q", 5], "modules_to_save": "head",
             "rank_pattern": {"q": 2.5}, "init_lora_weights": 1)"),
      AllOf(
          HasSubstr("a.json: 8 mistakes"),
          HasSubstr("r: found \"8\" (a string), expected an integer"),
          HasSubstr("lora_alpha: found true (a boolean), expected a number"),
          HasSubstr("bias: found 1 (an integer), expected a string"),
          HasSubstr("use_dora: found \"yes\" (a string), expected true or"),
          HasSubstr("target_modules[1]: found 5 (an integer)"),
          HasSubstr("modules_to_save: found \"head\" (a string), expected a "
                    "list of strings"),
          HasSubstr("rank_pattern[\"q\"]: found 2.5 (a number with a"),
          HasSubstr("init_lora_weights: found 1 (an integer)")));
}

TEST(ParseConfig, WantsIntegersForRanks) {
  EXPECT_THAT(field_mistake(R"("r": 8.0)"), HasSubstr("found 8.0 (a number"));
  EXPECT_THAT(field_mistake(R"("r": true)"), HasSubstr("found true"));
  EXPECT_THAT(
      field_mistake(R"("r": 9223372036854775808)"), HasSubstr("an integer"));
  EXPECT_EQ(lora(R"("lora_alpha": 0.5)").lora_alpha, 0.5);
}

TEST(ParseConfig, KeepsUnknownFieldsWithOneWarning) {
  CollectWarnings warnings;
  const LoraConfig config =
      lora(R"("new_b": {"x": [1, null]}, "r": 4, "new_a": "é")");
  EXPECT_THAT(
      warnings.all(), AllOf(HasSubstr("'new_a', 'new_b'"), HasSubstr("kept")));
  EXPECT_EQ(warnings.size(), 1);
  EXPECT_THAT(
      peft::to_json(config),
      AllOf(HasSubstr("\"new_a\": \"\\u00e9\""), HasSubstr("\"new_b\": {")));
}

TEST(ParseConfig, IgnoresTheRuntimeConfig) {
  CollectWarnings warnings;
  const LoraConfig config = lora(R"("runtime_config": {"x": 1})");
  EXPECT_THAT(config.unknown_fields, IsEmpty());
  EXPECT_THAT(warnings.all(), HasSubstr("runtime_config"));
  EXPECT_EQ(warnings.size(), 1);
}

}  // namespace
