// SPDX-License-Identifier: Apache-2.0
// Fields that hold token ids: trainable_token_indices and
// alora_invocation_tokens, read, written and checked.
#include <string>

#include <gmock/gmock.h>

#include "peft/adalora_config.h"
#include "peft/lora_config.h"
#include "support/check_config.h"

namespace {

using peft::ErrorKind;
using peft::LoraConfig;
using peft::TokenChoice;
using peft_test::check;
using peft_test::field_mistake;
using peft_test::lora;
using peft_test::mistake;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Optional;
using testing::Pair;

TEST(TokenFields, TakeTheShapesOfTokenChoices) {
  LoraConfig config;
  EXPECT_TRUE(config.trainable_token_indices.is_none());
  config.trainable_token_indices = {1, 3};
  EXPECT_TRUE(config.trainable_token_indices.is_list());
  EXPECT_THAT(config.trainable_token_indices.tokens(), ElementsAre(1, 3));
  config.trainable_token_indices = {{"embed_tokens", {1, 3}}, {"head", {2}}};
  EXPECT_TRUE(config.trainable_token_indices.is_by_layer());
  EXPECT_FALSE(config.trainable_token_indices.is_list());
  EXPECT_THAT(
      config.trainable_token_indices.by_layer(),
      ElementsAre(
          Pair("embed_tokens", ElementsAre(1, 3)),
          Pair("head", ElementsAre(2))));
  config.trainable_token_indices = {{"head", {0}}};
  EXPECT_TRUE(config.trainable_token_indices.is_by_layer());
  config.trainable_token_indices = {};
  EXPECT_TRUE(config.trainable_token_indices.is_none());
  EXPECT_EQ(TokenChoice({1}), TokenChoice(std::vector<std::int64_t>{1}));
  EXPECT_NE(TokenChoice({1}), TokenChoice({{"head", {1}}}));
}

TEST(TokenFields, AreRead) {
  EXPECT_THAT(
      lora(R"("trainable_token_indices": [3, 1])")
          .trainable_token_indices.tokens(),
      ElementsAre(3, 1));
  EXPECT_THAT(
      lora(R"("trainable_token_indices": {"z": [3, 1], "a": []})")
          .trainable_token_indices.by_layer(),
      ElementsAre(Pair("z", ElementsAre(3, 1)), Pair("a", ElementsAre())));
  EXPECT_TRUE(lora(R"("trainable_token_indices": null)")
                  .trainable_token_indices.is_none());
  EXPECT_THAT(
      lora(R"("alora_invocation_tokens": [5, 2])").alora_invocation_tokens,
      Optional(ElementsAre(5, 2)));
  EXPECT_EQ(
      lora(R"("alora_invocation_tokens": null)").alora_invocation_tokens,
      std::nullopt);
}

TEST(TokenFields, NameWrongTypes) {
  EXPECT_THAT(
      field_mistake(R"("alora_invocation_tokens": 5,
                       "trainable_token_indices": {"a": [1, "2"], "b": 3})"),
      AllOf(
          HasSubstr("3 mistakes"),
          HasSubstr("alora_invocation_tokens: found 5 (an integer), expected a "
                    "list of integers or null"),
          HasSubstr("trainable_token_indices[\"a\"][1]: found \"2\" (a"),
          HasSubstr("trainable_token_indices[\"b\"]: found 3 (an")));
  EXPECT_THAT(
      field_mistake(R"("alora_invocation_tokens": [true],
                       "trainable_token_indices": "all")"),
      AllOf(
          HasSubstr("2 mistakes"),
          HasSubstr("alora_invocation_tokens[0]: found true"),
          HasSubstr("trainable_token_indices: found \"all\" (a string)")));
}

TEST(TokenFields, AreWrittenAsTheyWereGiven) {
  LoraConfig config;
  EXPECT_THAT(
      peft::to_json(config),
      AllOf(
          HasSubstr("\"alora_invocation_tokens\": null"),
          HasSubstr("\"trainable_token_indices\": null")));
  config.alora_invocation_tokens = {7, 2};
  config.trainable_token_indices = {3, 1};
  EXPECT_THAT(
      peft::to_json(config),
      AllOf(
          HasSubstr("\"alora_invocation_tokens\": [\n    7,\n    2\n  ]"),
          HasSubstr("\"trainable_token_indices\": [\n    3,\n    1\n  ]")));
  config.trainable_token_indices = {{"head", {2}}};
  EXPECT_THAT(
      peft::to_json(config),
      HasSubstr("\"trainable_token_indices\": {\n    \"head\": [\n"));
}

TEST(TokenFields, AreAccepted) {
  LoraConfig config;
  config.alora_invocation_tokens = {7, 7};  // a sequence may repeat
  config.trainable_token_indices = {0, 3};
  config.ensure_weight_tying = true;
  config.task_type = std::nullopt;  // PEFT only warns beside aLoRA
  EXPECT_NO_THROW(check(config));
  config.trainable_token_indices = {{"embed_tokens", {1}}, {"head", {1}}};
  EXPECT_NO_THROW(check(config));
  config.trainable_token_indices =
      peft::Patterns<std::vector<std::int64_t>>();  // of no layer, as in PEFT
  EXPECT_NO_THROW(check(config));
}

TEST(TokenFields, NameAllMistakes) {
  LoraConfig config;
  config.alora_invocation_tokens = {1, -2};
  config.trainable_token_indices = {4, -1, 4};
  EXPECT_THAT(
      mistake(ErrorKind::config, config),
      AllOf(
          HasSubstr("3 mistakes"),
          HasSubstr("alora_invocation_tokens holds -2"),
          HasSubstr("trainable_token_indices holds -1"),
          HasSubstr("trainable_token_indices holds 4 twice")));
  config.alora_invocation_tokens.emplace();
  config.trainable_token_indices = {
      {"a", {}}, {"", {1}}, {"b", {2, 2}}, {"b", {3}}};
  EXPECT_THAT(
      mistake(ErrorKind::config, config),
      AllOf(
          HasSubstr("5 mistakes"),
          HasSubstr("alora_invocation_tokens is an empty list"),
          HasSubstr("trainable_token_indices['a'] is an empty list"),
          HasSubstr("trainable_token_indices has a layer without a name"),
          HasSubstr("trainable_token_indices['b'] holds 2 twice"),
          HasSubstr("trainable_token_indices has the layer 'b' twice")));
  config = {};
  config.trainable_token_indices = std::vector<std::int64_t>();
  EXPECT_THAT(
      mistake(ErrorKind::config, config),
      HasSubstr("trainable_token_indices is an empty list"));
}

TEST(TokenFields, ExcludeWhatPeftRefusesBesideThem) {
  LoraConfig config;
  config.alora_invocation_tokens = {1};
  config.use_dora = true;
  EXPECT_THAT(
      mistake(ErrorKind::config, config),
      HasSubstr("alora_invocation_tokens and use_dora cannot be combined"));
  config.use_dora = false;
  config.init_lora_weights = "MiCA";
  EXPECT_THAT(
      mistake(ErrorKind::config, config),
      HasSubstr("alora_invocation_tokens and init_lora_weights = 'mica'"));
  config = {};
  config.modules_to_save = {"head"};
  config.trainable_token_indices = {{"embed_tokens", {1}}, {"head", {1}}};
  EXPECT_THAT(
      mistake(ErrorKind::config, config),
      AllOf(HasSubstr("'head'"), HasSubstr("modules_to_save")));
}

TEST(TokenFields, ReachTheTargetRules) {
  peft::AdaLoraConfig config;
  config.total_step = 10;
  config.trainable_token_indices = {1};
  config.ensure_weight_tying = true;
  EXPECT_NO_THROW(check(config));
  EXPECT_EQ(config.target_rules().trainable_token_indices, TokenChoice({1}));
  EXPECT_TRUE(config.target_rules().ensure_weight_tying);
  EXPECT_TRUE(LoraConfig().target_rules().trainable_token_indices.is_none());
  EXPECT_FALSE(LoraConfig().target_rules().ensure_weight_tying);
  config.alora_invocation_tokens = {1};
  EXPECT_THAT(
      mistake(ErrorKind::config, config),
      HasSubstr("does not work with alora_invocation_tokens"));
}

}  // namespace
