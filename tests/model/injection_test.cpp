// SPDX-License-Identifier: Apache-2.0
// What injection refuses, how it says so, and that it then changes nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>

#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/error_of.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using peft::ErrorKind;
using testing::AllOf;
using testing::HasSubstr;

class Refusal : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(0);
    config_.target_modules = {"head"};
    for (const auto& p : model_->named_parameters()) {
      tensors_.push_back(p.value());
      values_.push_back(p.value().detach().clone());
    }
    y_ = model_->forward(text_ids());
  }

  // The text of the error; afterwards the model must be as it was.
  std::string refuse(ErrorKind kind, const std::string& name = "default") {
    const auto text = error_of(
        kind, [&] { peft::inject_adapter_in_model(config_, *model_, name); });
    const auto now = model_->named_parameters();
    EXPECT_EQ(now.size(), tensors_.size());
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      EXPECT_TRUE(now.values()[i].is_same(tensors_[i]));
      EXPECT_TRUE(torch::equal(tensors_[i], values_[i]));
      EXPECT_TRUE(tensors_[i].requires_grad());
    }
    EXPECT_TRUE(torch::equal(model_->forward(text_ids()), y_));
    EXPECT_THROW(peft::adapters_of(*model_), peft::Error);
    return text;
  }

  TextModel model_;
  peft::LoraConfig config_;
  std::vector<torch::Tensor> tensors_;
  std::vector<torch::Tensor> values_;
  torch::Tensor y_;
};

TEST_F(Refusal, NoTarget) {
  config_.target_modules = {};
  EXPECT_THAT(refuse(ErrorKind::target), HasSubstr("target_modules"));
}

TEST_F(Refusal, UnknownTargetSuggestsTheNearest) {
  config_.target_modules = {"haed"};
  EXPECT_THAT(
      refuse(ErrorKind::target),
      AllOf(HasSubstr("'haed'"), HasSubstr("'head'")));
}

TEST_F(Refusal, UnsupportedKind) {
  config_.target_modules = {"norm", "head"};
  EXPECT_THAT(
      refuse(ErrorKind::target),
      AllOf(
          HasSubstr("norm"),
          HasSubstr("LayerNorm"),
          HasSubstr("Linear"),
          HasSubstr("register_layer")));
}

TEST_F(Refusal, EveryMistakeOfAConfigAtOnce) {
  config_.r = 0;
  config_.lora_alpha = std::numeric_limits<double>::quiet_NaN();
  config_.lora_dropout = 1.0;
  config_.bias = "some";
  config_.use_qalora = true;
  config_.init_lora_weights = "pissa";
  EXPECT_THAT(
      refuse(ErrorKind::config),
      AllOf(
          HasSubstr("r "),
          HasSubstr("lora_alpha"),
          HasSubstr("lora_dropout"),
          HasSubstr("bias"),
          HasSubstr("use_qalora"),
          HasSubstr("pissa")));
}

TEST_F(Refusal, BadNames) {
  EXPECT_THAT(refuse(ErrorKind::config, ""), HasSubstr("empty"));
  EXPECT_THAT(refuse(ErrorKind::config, "a.b"), HasSubstr("'a.b'"));
  EXPECT_THAT(refuse(ErrorKind::config, "/etc"), HasSubstr("slash"));
}

TEST_F(Refusal, BadRankInAPattern) {
  config_.target_modules = {"up", "head"};
  config_.rank_pattern = {{"up", -1}};
  EXPECT_THAT(refuse(ErrorKind::config), HasSubstr("rank_pattern"));
}

TEST_F(Refusal, InvalidRegex) {
  config_.target_modules = "(head";
  EXPECT_THAT(refuse(ErrorKind::config), HasSubstr("(head"));
}

TEST_F(Refusal, ASubmoduleInTheWay) {
  model_->named_children()["head"]->register_module("lora_B", nn::Linear(1, 1));
  const auto text = error_of(ErrorKind::state, [&] {
    peft::inject_adapter_in_model(config_, *model_);
  });
  EXPECT_THAT(text, AllOf(HasSubstr("head"), HasSubstr("lora_B")));
  EXPECT_TRUE(tensors_[0].requires_grad());
}

TEST_F(Refusal, SavedModuleOfAnUnknownClass) {
  struct OwnImpl : nn::Module {
    OwnImpl() { register_parameter("v", torch::ones(3)); }
  };
  model_->register_module("own", std::make_shared<OwnImpl>());
  config_.modules_to_save = {"own"};
  EXPECT_THAT(
      error_of(
          ErrorKind::unsupported,
          [&] { peft::inject_adapter_in_model(config_, *model_); }),
      AllOf(HasSubstr("own"), HasSubstr("register_layer")));
}

TEST(Injection, RankNotDivisibleByGroups) {
  nn::Sequential model(nn::Conv1d(nn::Conv1dOptions(4, 4, 3).groups(4)));
  peft::LoraConfig config;
  config.r = 6;
  config.target_modules = {"0"};
  EXPECT_THAT(
      error_of(
          ErrorKind::config,
          [&] { peft::inject_adapter_in_model(config, *model); }),
      AllOf(HasSubstr("6"), HasSubstr("groups = 4")));
}

TEST(Injection, ANameIsTakenOnce) {
  TextModel model;
  peft::LoraConfig config;
  config.target_modules = {"head"};
  auto adapters = peft::inject_adapter_in_model(config, *model, "a");
  const auto before = adapters.parameters("a");
  EXPECT_THAT(
      error_of(
          ErrorKind::state,
          [&] { peft::inject_adapter_in_model(config, *model, "a"); }),
      HasSubstr("'a'"));
  EXPECT_TRUE(adapters.parameters("a")[0].is_same(before[0]));
}

TEST(Injection, AFailedSecondOneLeavesNoTrace) {
  TextModel model;
  peft::LoraConfig config;
  config.target_modules = {"head"};
  auto adapters = peft::inject_adapter_in_model(config, *model, "a");
  config.r = 0;
  EXPECT_THAT(
      error_of(
          ErrorKind::config,
          [&] { peft::inject_adapter_in_model(config, *model, "b"); }),
      HasSubstr("r is 0"));
  EXPECT_EQ(adapters.names(), std::vector<std::string>{"a"});
  config.r = 8;
  peft::inject_adapter_in_model(config, *model, "b");
  EXPECT_EQ(adapters.names(), (std::vector<std::string>{"a", "b"}));
}

TEST(Injection, ThroughAnotherModuleIsRefused) {
  TextModel model;
  peft::LoraConfig config;
  config.target_modules = {"up"};
  auto blocks = model->named_children()["blocks"];
  peft::inject_adapter_in_model(config, *blocks, "a");
  EXPECT_THAT(
      error_of(
          ErrorKind::state,
          [&] { peft::inject_adapter_in_model(config, *model, "b"); }),
      HasSubstr("already adapted"));
  EXPECT_THAT(
      error_of(ErrorKind::state, [&] { peft::adapters_of(*model); }),
      HasSubstr("ModuleList"));
}

TEST(Injection, AWarningHandlerThatThrowsStopsItInTime) {
  TextModel model;
  peft::LoraConfig config;
  config.target_modules = {"head", "nope"};
  const auto old = peft::set_warning_handler(
      [](const std::string& text) { throw std::runtime_error(text); });
  EXPECT_THROW(
      peft::inject_adapter_in_model(config, *model), std::runtime_error);
  peft::set_warning_handler(old);
  EXPECT_THROW(peft::adapters_of(*model), peft::Error);
  EXPECT_TRUE(model->named_parameters()["head.weight"].requires_grad());
}

TEST(Injection, MistakesOfNameValuesAndTargetsComeTogether) {
  TextModel model;
  peft::LoraConfig config;
  config.r = 0;
  config.target_modules = {"zzz"};
  EXPECT_THAT(
      error_of(
          ErrorKind::config,
          [&] { peft::inject_adapter_in_model(config, *model, "a.b"); }),
      AllOf(HasSubstr("a.b"), HasSubstr("r "), HasSubstr("zzz")));
}

TEST(Injection, PartlyUnmatchedPartsAreWarnedOf) {
  CollectWarnings warnings;
  TextModel model;
  peft::LoraConfig config;
  config.target_modules = {"head", "quary"};
  config.exclude_modules = {"nothing"};
  config.rank_pattern = {{"tail", 3}};
  config.alpha_pattern = {{"toil", 3}};
  config.modules_to_save = {"norm", "pooler"};
  peft::inject_adapter_in_model(config, *model);
  EXPECT_THAT(
      warnings.all(),
      AllOf(
          HasSubstr("quary"),
          HasSubstr("nothing"),
          HasSubstr("tail"),
          HasSubstr("toil"),
          HasSubstr("pooler")));
}

TEST(Injection, PatternsSetRankAndAlphaByModule) {
  TextModel model;
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.target_modules = {"up", "down", "head"};
  config.rank_pattern = {{"blocks.1.up", 5}, {"up", 4}};
  config.alpha_pattern = {{"^head", 8}};
  auto adapters = peft::inject_adapter_in_model(config, *model);
  const auto state = peft::get_peft_model_state_dict(*model);
  EXPECT_EQ(state["blocks.1.up.lora_A.weight"].size(0), 5);
  EXPECT_EQ(state["blocks.0.up.lora_A.weight"].size(0), 4);
  EXPECT_EQ(state["blocks.0.down.lora_A.weight"].size(0), 2);
  const auto scaling = adapters.scaling("default");
  EXPECT_DOUBLE_EQ(scaling.at("blocks.1.up"), 3.0 / 5);
  EXPECT_DOUBLE_EQ(scaling.at("head"), 8.0 / 2);
}

TEST(Injection, RsloraScalesByTheRoot) {
  TextModel model;
  peft::LoraConfig config;
  config.r = 4;
  config.lora_alpha = 3;
  config.use_rslora = true;
  config.target_modules = {"head"};
  auto adapters = peft::inject_adapter_in_model(config, *model);
  EXPECT_DOUBLE_EQ(adapters.scaling("default").at("head"), 1.5);
}

TEST(Injection, InitialisersHaveTheirStatistics) {
  const auto factors = [](peft::InitChoice init) {
    torch::manual_seed(0);
    nn::Sequential model(nn::Linear(400, 300), nn::Embedding(300, 40));
    peft::LoraConfig config;
    config.r = 16;
    config.init_lora_weights = std::move(init);
    config.target_modules = {"0", "1"};
    return peft::inject_adapter_in_model(config, *model).parameters("default");
  };
  const auto by_default = factors(true);
  const double bound = 1 / std::sqrt(400.0);
  EXPECT_LE(by_default[0].abs().max().item<double>(), bound);
  EXPECT_NEAR(by_default[0].std().item<double>(), bound / std::sqrt(3.0), 1e-3);
  EXPECT_EQ(by_default[1].abs().max().item<double>(), 0);
  EXPECT_EQ(by_default[2].abs().max().item<double>(), 0);
  EXPECT_NEAR(by_default[3].std().item<double>(), 1, 0.1);
  const auto gaussian = factors("gaussian");
  EXPECT_NEAR(gaussian[0].std().item<double>(), 1.0 / 16, 2e-3);
  EXPECT_EQ(gaussian[1].abs().max().item<double>(), 0);
  const auto off = factors(false);
  EXPECT_GT(off[1].abs().max().item<double>(), 0);
  EXPECT_LE(off[1].abs().max().item<double>(), 1 / std::sqrt(16.0));
}

TEST(Injection, InferenceModeFreezesTheAdapter) {
  TextModel model;
  peft::LoraConfig config;
  config.target_modules = {"head"};
  config.inference_mode = true;
  auto adapters = peft::inject_adapter_in_model(config, *model);
  EXPECT_TRUE(adapters.trainable_parameters().empty());
  EXPECT_EQ(adapters.active_adapters(), std::vector<std::string>{"default"});
}

TEST(Injection, UnderInferenceModeStillTrainsLater) {
  TextModel model;
  peft::LoraConfig config;
  config.target_modules = {"head"};
  {
    const c10::InferenceMode guard;
    peft::inject_adapter_in_model(config, *model);
  }
  model->forward(text_ids()).sum().backward();
  EXPECT_TRUE(
      peft::adapters_of(*model).trainable_parameters()[1].grad().defined());
}

TEST(MatchReport, SaysWhatAndWhyNot) {
  TextModel model;
  peft::LoraConfig config;
  config.target_modules = {"up", "quary"};
  config.exclude_modules = {"blocks.1.up"};
  const auto report = peft::match_report(config, *model);
  EXPECT_EQ(report.adapted(), std::vector<std::string>{"blocks.0.up"});
  EXPECT_EQ(report.unmatched_targets, std::vector<std::string>{"quary"});
  EXPECT_THAT(report.to_string(), HasSubstr("blocks.1.up"));
  EXPECT_TRUE(model->named_parameters()["head.weight"].requires_grad());
  config.target_modules = {"nothing"};
  EXPECT_THAT(
      peft::match_report(config, *model).to_string(), HasSubstr("nothing"));
  config.target_parameters = {"up.weights"};
  EXPECT_THAT(
      peft::match_report(config, *model).to_string(),
      HasSubstr("target_parameters: 'up.weights' meets no parameter that can "
                "take an adapter (did you mean 'up.weight'?)"));
}

TEST(Injection, WorksOnAModelOnTheStack) {
  struct Plain : nn::Module {
    nn::Linear layer = register_module("layer", nn::Linear(3, 2));
  };
  Plain model;
  peft::LoraConfig config;
  config.target_modules = {"layer"};
  peft::inject_adapter_in_model(config, model);
  EXPECT_EQ(peft::adapters_of(model).names().size(), 1);
}

}  // namespace
}  // namespace peft_test
