// SPDX-License-Identifier: Apache-2.0
// The configs' check(): values that can never work, and what is not built.
#include <cmath>
#include <limits>
#include <string>

#include <gmock/gmock.h>

#include "peft/adalora_config.h"
#include "peft/ia3_config.h"
#include "peft/lora_config.h"
#include "support/check_config.h"

namespace {

using peft::ErrorKind;
using peft::LoraConfig;
using peft_test::check;
using peft_test::mistake;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

TEST(CheckConfig, IsContentWithDefaultsAndWhatIsBuilt) {
  LoraConfig config;
  EXPECT_NO_THROW(check(config));
  config.init_lora_weights = "gaussian";
  config.lora_dropout = 0.999;
  config.lora_alpha = -0.5;
  config.task_type = "CAUSAL_LM";
  config.layers_to_transform = {0};
  config.layers_pattern = {"h"};
  config.rank_pattern = {{"q", 1}};
  config.target_parameters = {"experts.w1"};
  EXPECT_NO_THROW(check(config));
}

TEST(CheckConfig, NamesAllMistakesAtOnce) {
  LoraConfig config;
  config.r = 0;
  config.lora_alpha = std::numeric_limits<double>::infinity();
  config.lora_dropout = std::nan("");
  config.bias = "some";
  config.task_type = "CAUSAL";
  config.target_modules = ".*q";
  config.layers_to_transform = {1, -2};
  config.layers_pattern = {"h"};
  config.rank_pattern = {{"q", 0}, {"q", 2}};
  config.alpha_pattern = {{"q", std::nan("")}};
  EXPECT_THAT(
      mistake(ErrorKind::config, config),
      AllOf(
          HasSubstr("r is 0"),
          HasSubstr("lora_alpha is inf"),
          HasSubstr("lora_dropout is nan"),
          HasSubstr("bias is 'some'"),
          HasSubstr("task_type is 'CAUSAL'"),
          HasSubstr("layers_to_transform works only with a list"),
          HasSubstr("layers_pattern works only with a list"),
          HasSubstr("layers_to_transform holds -2"),
          HasSubstr("rank_pattern gives 'q' the value 0"),
          HasSubstr("rank_pattern has the key 'q' twice"),
          HasSubstr("alpha_pattern gives 'q' the value nan")));
}

TEST(CheckConfig, WantsADropoutBelowOne) {
  LoraConfig config;
  config.lora_dropout = 1;
  EXPECT_THAT(mistake(ErrorKind::config, config), HasSubstr("lora_dropout"));
  config.lora_dropout = -0.1;
  EXPECT_THAT(mistake(ErrorKind::config, config), HasSubstr("lora_dropout"));
}

TEST(CheckConfig, WantsLayersBesideALayersPattern) {
  LoraConfig config;
  config.layers_pattern = {"h"};
  EXPECT_THAT(
      mistake(ErrorKind::config, config),
      HasSubstr("without layers_to_transform"));
}

TEST(CheckConfig, RefusesVariantsByFieldAndValue) {
  LoraConfig config;
  config.use_qalora = true;
  for (auto field :
       {&LoraConfig::arrow_config,
        &LoraConfig::kasa_config,
        &LoraConfig::monteclora_config,
        &LoraConfig::use_bdlora,
        &LoraConfig::velora_config}) {
    (config.*field).text = "{}";  // all defaults of the variant
  }
  config.layer_replication.text = "[[0,4]]";
  config.megatron_config.text = R"({"tp":2})";
  const std::string text = mistake(ErrorKind::unsupported, config);
  EXPECT_THAT(text, HasSubstr("8 mistakes"));
  for (const char* part :
       {"use_qalora = true",
        "arrow_config = {}",
        "kasa_config = {}",
        "monteclora_config = {}",
        "use_bdlora = {}",
        "velora_config = {}",
        "layer_replication = [[0,4]] repeats layers",
        "build the deeper model",
        "megatron_config = {\"tp\":2}"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(CheckConfig, RefusesWhatPeftRefusesTogether) {
  LoraConfig config;
  config.lora_bias = config.use_dora = true;
  config.init_lora_weights = "MiCA";
  const std::string text = mistake(ErrorKind::config, config);
  EXPECT_THAT(text, HasSubstr("lora_bias and use_dora"));
  EXPECT_THAT(text, HasSubstr("lora_bias works only with"));
  EXPECT_THAT(text, HasSubstr("'mica' and use_dora"));
}

TEST(CheckConfig, Ia3MustSayWhichModulesAreFeedForward) {
  peft::IA3Config config;
  config.target_modules = {"k", "down"};
  EXPECT_THAT(
      mistake(ErrorKind::config, config),
      HasSubstr("feedforward_modules is not set"));
  config.feedforward_modules = {"down", "up"};
  EXPECT_THAT(mistake(ErrorKind::config, config), HasSubstr("'up'"));
  config.feedforward_modules = std::vector<std::string>();
  EXPECT_NO_THROW(check(config));
}

TEST(CheckConfig, AdaLoraNeedsAScheduleInWhichRanksCanGo) {
  peft::AdaLoraConfig config;
  EXPECT_THAT(
      mistake(ErrorKind::config, config), HasSubstr("total_step is not set"));
  config.total_step = 10;
  EXPECT_NO_THROW(check(config));
  config.tinit = 5;
  config.tfinal = 5;
  config.target_r = 20;
  config.beta1 = 1;
  config.orth_reg_weight = -1;
  config.use_dora = true;
  config.init_lora_weights = "pissa";
  config.target_parameters = {"w"};
  config.rank_pattern = {{"q.lora_E", {true}}};
  const std::string text = mistake(ErrorKind::config, config);
  for (const char* part :
       {"tinit = 5",
        "target_r = 20",
        "beta1 is 1",
        "orth_reg_weight",
        "use_dora",
        "init_lora_weights",
        "target_parameters",
        "rank_pattern['q.lora_E']"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

// What Python PEFT writes and runs; only another training could not go on.
TEST(CheckConfig, RulesForATrainingRefuseNoFile) {
  peft::AdaLoraConfig config;
  config.init_r = 4;  // below the default target_r = 8
  config.r = 0;       // means nothing in AdaLoRA
  config.tinit = config.tfinal = 5;
  config.deltaT = 0;
  config.beta1 = config.beta2 = 1;
  config.orth_reg_weight = -1;
  config.lora_dropout = 1;
  config.layers_to_transform = {-1, 2};
  config.init_lora_weights = "loftq";
  config.rank_pattern = {{"q.lora_E", {true}}};
  config.eva_config = peft::EvaConfig{.rho = 0.5, .tau = 3};
  config.corda_config = peft::CordaConfig{.corda_method = "x"};
  config.lora_ga_config = peft::LoraGAConfig{.direction = "x"};
  config.inference_mode = true;
  EXPECT_NO_THROW(check(config));
  config.inference_mode = false;
  const std::string text = mistake(ErrorKind::config, config);
  for (const char* part :
       {"target_r = 8 is above init_r = 4",
        "total_step is not set",
        "deltaT",
        "beta1",
        "beta2",
        "orth_reg_weight",
        "lora_dropout",
        "layers_to_transform holds -1",
        "init_lora_weights",
        "rank_pattern",
        "eva_config.rho",
        "corda_config.corda_method",
        "lora_ga_config.direction"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  EXPECT_THAT(text, Not(HasSubstr("r is 0")));
}

TEST(CheckConfig, WhatNeverMakesSenseIsRefusedInFilesToo) {
  peft::AdaLoraConfig config;
  config.inference_mode = true;
  config.use_dora = true;
  config.init_r = -1;
  config.lora_dropout = 1.5;
  config.bias = "some";
  const std::string text = mistake(ErrorKind::config, config);
  for (const char* part :
       {"use_dora", "init_r is -1", "lora_dropout", "bias is 'some'"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(CheckConfig, LetsPassWhatAsksForNothing) {
  LoraConfig config;
  config.qalora_group_size = 32;
  config.megatron_core.text = "\"other\"";
  config.loftq_config.text = R"({"loftq_bits": 4})";  // without "loftq"
  config.layer_replication.text = "[]";
  config.use_bdlora.text = "false";
  EXPECT_NO_THROW(check(config));
}

TEST(CheckConfig, NamesFieldsThatAreNoJson) {
  LoraConfig config;
  config.auto_mapping.text = "{";
  config.loftq_config.text = "";
  config.arrow_config.text = "top_k";
  config.unknown_fields = {{"new", {"'x'"}}};
  EXPECT_THAT(
      mistake(ErrorKind::config, config),
      AllOf(
          HasSubstr("auto_mapping is not JSON"),
          HasSubstr("loftq_config is not JSON"),
          HasSubstr("arrow_config is not JSON"),
          HasSubstr("'new' is not JSON")));
}

TEST(CheckConfig, ClonesAllFields) {
  LoraConfig config;
  config.r = 3;
  config.unknown_fields = {{"x", {"1"}}};
  EXPECT_EQ(peft::to_json(*config.clone()), peft::to_json(config));
}

}  // namespace
