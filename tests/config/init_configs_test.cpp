// SPDX-License-Identifier: Apache-2.0
// The configs inside a LoraConfig, eva_config, corda_config and
// lora_ga_config, and the initialisations that they belong to.
#include <limits>
#include <string>

#include <gmock/gmock.h>

#include "peft/adalora_config.h"
#include "peft/lora_config.h"
#include "support/check_config.h"
#include "support/collect_warnings.h"

namespace {

using peft::CordaConfig;
using peft::ErrorKind;
using peft::EvaConfig;
using peft::LoraConfig;
using peft::LoraGAConfig;
using peft_test::check;
using peft_test::CollectWarnings;
using peft_test::error_of;
using peft_test::field_mistake;
using peft_test::lora;
using peft_test::mistake;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::Optional;

TEST(InitConfigs, AreReadWithTheirDefaults) {
  CollectWarnings warnings;
  EXPECT_EQ(lora("").eva_config, std::nullopt);
  EXPECT_EQ(lora(R"("eva_config": null)").eva_config, std::nullopt);
  EXPECT_THAT(lora(R"("eva_config": {})").eva_config, Optional(EvaConfig{}));
  EXPECT_THAT(
      lora(R"("eva_config": {"rho": 1.5, "tau": null, "whiten": true,
                             "label_mask_value": 0})")
          .eva_config,
      Optional(EvaConfig{.rho = 1.5, .label_mask_value = 0, .whiten = true}));
  EXPECT_THAT(
      lora(R"("corda_config": {"cache_file": "c.pt", "corda_method": "kpm",
                               "covariance_file": null})")
          .corda_config,
      Optional(CordaConfig{.cache_file = "c.pt", .corda_method = "kpm"}));
  EXPECT_THAT(
      lora(R"("lora_ga_config": {"direction": "ArBr", "stable_gamma": 4})")
          .lora_ga_config,
      Optional(LoraGAConfig{.direction = "ArBr", .stable_gamma = 4}));
  EXPECT_EQ(warnings.all(), "");
}

TEST(InitConfigs, AreWrittenAsObjects) {
  LoraConfig config;
  EXPECT_THAT(
      peft::to_json(config),
      AllOf(
          HasSubstr("\"eva_config\": null"),
          HasSubstr("\"corda_config\": null"),
          HasSubstr("\"lora_ga_config\": null")));
  config.eva_config = EvaConfig{.rho = 1.5};
  config.corda_config = CordaConfig{};
  config.lora_ga_config = LoraGAConfig{};
  EXPECT_THAT(
      peft::to_json(config),
      AllOf(
          HasSubstr("\"eva_config\": {\n"
                    "    \"adjust_scaling_factors\": true,\n"
                    "    \"label_mask_value\": -100,\n"
                    "    \"rho\": 1.5,\n"
                    "    \"tau\": 0.99,\n"
                    "    \"use_label_mask\": true,\n"
                    "    \"whiten\": false\n"
                    "  },"),
          HasSubstr("\"corda_config\": {\n"
                    "    \"cache_file\": null,\n"
                    "    \"corda_method\": \"ipm\",\n"
                    "    \"covariance_file\": null,\n"
                    "    \"prune_temporary_fields\": true,\n"
                    "    \"use_float16_for_covariance\": false,\n"
                    "    \"verbose\": false\n"
                    "  },"),
          HasSubstr("\"lora_ga_config\": {\n"
                    "    \"direction\": \"ArB2r\",\n"
                    "    \"scale\": \"stable\",\n"
                    "    \"stable_gamma\": 16\n"
                    "  },")));
}

TEST(InitConfigs, KeepUnknownFieldsWithOneWarning) {
  CollectWarnings warnings;
  const LoraConfig config =
      lora(R"("eva_config": {"rho": 1.5, "later": [1, null]}, "new": 1)");
  EXPECT_THAT(warnings.all(), HasSubstr("'eva_config.later', 'new'"));
  EXPECT_EQ(warnings.size(), 1);
  EXPECT_THAT(
      peft::to_json(config),
      HasSubstr("\"later\": [\n      1,\n      null\n    ],"));
  EXPECT_THAT(config.unknown_fields, testing::SizeIs(1));
  EXPECT_NE(config.eva_config, EvaConfig{.rho = 1.5});
  EXPECT_EQ(
      peft::to_json(*peft::parse_adapter_config(peft::to_json(config))),
      peft::to_json(config));
}

TEST(InitConfigs, NameWrongTypesWithTheirPath) {
  EXPECT_THAT(
      field_mistake(
          R"("eva_config": {"rho": "2", "whiten": 1}, "lora_ga_config": true,
             "corda_config": {"cache_file": 3}, "r": 1.5)"),
      AllOf(
          HasSubstr("5 mistakes"),
          HasSubstr("eva_config.rho: found \"2\" (a string), expected a num"),
          HasSubstr("eva_config.whiten: found 1 (an integer)"),
          HasSubstr("lora_ga_config: found true (a boolean), expected an "
                    "object or null"),
          HasSubstr("corda_config.cache_file: found 3"),
          HasSubstr("\n  - r: found 1.5")));
}

TEST(InitConfigs, NameBadValues) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  LoraConfig config;
  config.eva_config = EvaConfig{.rho = 0.5, .tau = nan};
  config.corda_config = CordaConfig{.corda_method = "imp"};
  config.lora_ga_config =
      LoraGAConfig{.direction = "arbr", .scale = "stabel", .stable_gamma = 0};
  EXPECT_THAT(
      mistake(ErrorKind::config, config),
      AllOf(
          HasSubstr("6 mistakes"),
          HasSubstr("eva_config.rho is 0.5"),
          HasSubstr("eva_config.tau is nan"),
          HasSubstr("corda_config.corda_method is 'imp'"),
          HasSubstr("lora_ga_config.direction is 'arbr'"),
          HasSubstr(
              "lora_ga_config.scale is 'stabel' (did you mean 'stable'?)"),
          HasSubstr("lora_ga_config.stable_gamma is 0")));
  EXPECT_THAT(
      error_of(ErrorKind::config, [&] { peft::to_json(config); }),
      HasSubstr("eva_config.tau is nan"));
  config = {};
  config.corda_config = CordaConfig{.unknown_fields = {{"later", {"'x'"}}}};
  EXPECT_THAT(
      mistake(ErrorKind::config, config),
      HasSubstr("corda_config.unknown_fields: 'later' is not JSON text"));
}

TEST(InitConfigs, AskForNothingWithoutTheirInitialisation) {
  LoraConfig config;
  config.eva_config = EvaConfig{.rho = 1, .tau = 0};
  config.corda_config = CordaConfig{};
  config.lora_ga_config = LoraGAConfig{};
  EXPECT_NO_THROW(check(config));
}

TEST(InitSchemes, AreAcceptedWithAndWithoutTheirConfig) {
  for (const char* scheme :
       {"pissa",
        "pissa_niter_16",
        "olora",
        "OLoRA",
        "orthogonal",
        "mica",
        "eva",
        "EVA",
        "corda",
        "lora_ga"}) {
    LoraConfig config;
    config.init_lora_weights = scheme;
    EXPECT_NO_THROW(check(config)) << scheme;
    config.eva_config = EvaConfig{};
    config.corda_config = CordaConfig{};
    config.lora_ga_config = LoraGAConfig{};
    EXPECT_NO_THROW(check(config)) << scheme;
  }
}

TEST(InitSchemes, TakeRootsOfAPositiveScale) {
  for (const char* scheme : {"pissa", "pissa_niter_4", "CorDA"}) {
    LoraConfig config;
    config.init_lora_weights = scheme;
    config.lora_alpha = 0;
    EXPECT_THAT(
        mistake(ErrorKind::config, config), HasSubstr("needs lora_alpha > 0"));
  }
}

TEST(InitSchemes, AreRefusedByName) {
  LoraConfig config;
  config.init_lora_weights = "LoftQ";
  EXPECT_THAT(
      mistake(ErrorKind::unsupported, config),
      AllOf(
          HasSubstr("init_lora_weights = 'LoftQ'"),
          HasSubstr("quantised base weight"),
          HasSubstr("use 'pissa' or true"),
          Not(HasSubstr("yet"))));
  config.init_lora_weights = "gausian";
  EXPECT_THAT(
      mistake(ErrorKind::config, config),
      AllOf(HasSubstr("did you mean 'gaussian'?"), HasSubstr("'lora_ga'")));
  config.init_lora_weights = "pissa_niter_many";
  EXPECT_THAT(mistake(ErrorKind::config, config), HasSubstr("'pissa_niter_4'"));
}

}  // namespace
