// SPDX-License-Identifier: Apache-2.0
// Merging in the states that a model can be in. What merged weights are, for
// every method and layer kind, is in matrix/operations_matrix_test.cpp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/message_of.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using testing::ElementsAre;
using testing::HasSubstr;
using torch::Tensor;

peft::LoraConfig lora() {
  peft::LoraConfig config;
  config.r = 3;
  config.lora_alpha = 4;
  config.target_modules = {"up", "head"};
  return config;
}

class Merging : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(11);
    model_->eval();
    base_ = forward();
    peft::inject_adapter_in_model(lora(), *model_, "a");
    peft::inject_adapter_in_model(lora(), *model_, "b");
    for (const auto* name : {"a", "b"}) {
      randomise(adapters().parameters(name));
    }
    adapters().set_adapter("a");
    a_ = forward();
  }

  peft::Adapters adapters() { return peft::adapters_of(*model_); }
  Tensor forward() { return model_->forward(text_ids()); }
  Tensor parameter(const std::string& name) {
    return model_->named_parameters()[name];
  }

  TextModel model_;
  Tensor base_, a_;
};

TEST_F(Merging, WhatIsBrokenIsRefusedAndNothingChanges) {
  Tensor B =
      peft::get_peft_model_state_dict(*model_, "a")["head.lora_B.weight"];
  {
    const torch::NoGradGuard no_grad;
    B[1][2] = NAN;
  }
  EXPECT_THAT(
      message_of([&] { adapters().merge_adapter(); }),
      HasSubstr("'head': the merged weight has NaN or infinite values"));
  EXPECT_TRUE(adapters().merged_adapters().empty());
  const Tensor copy = parameter("head.weight").clone();
  EXPECT_THAT(
      message_of([&] { adapters().merge_and_unload({}, /*in_place=*/true); }),
      HasSubstr("'head'"));
  EXPECT_TRUE(torch::equal(parameter("head.weight"), copy));
  EXPECT_THAT(adapters().names(), ElementsAre("a", "b"));
}

TEST_F(Merging, IsIgnoredByADisabledModelUntilItIsEnabled) {
  adapters().enable_adapters(false);
  adapters().merge_adapter({"a"});
  EXPECT_TRUE(torch::equal(forward(), base_));
  adapters().enable_adapters(true);
  EXPECT_TRUE(torch::allclose(forward(), a_, 1e-4, 1e-5));
  EXPECT_THAT(adapters().status().merged_adapters, ElementsAre("a"));
  EXPECT_THAT(
      adapters().layer_status().front().merged_adapters, ElementsAre("a"));
}

TEST_F(Merging, TwiceWarnsAndChangesNothing) {
  CollectWarnings warnings;
  adapters().merge_adapter({"a"});
  const Tensor merged = forward();
  adapters().merge_adapter({"a"});
  EXPECT_THAT(warnings.all(), HasSubstr("'a' are merged already"));
  EXPECT_TRUE(torch::equal(forward(), merged));
  adapters().unmerge_adapter();
  adapters().unmerge_adapter();
  EXPECT_THAT(warnings.all(), HasSubstr("no adapter is merged"));
  EXPECT_TRUE(torch::equal(forward(), a_));
}

TEST_F(Merging, AMergedAdapterIsNotDeletedNorOverwritten) {
  adapters().merge_adapter({"a"});
  EXPECT_THAT(
      message_of([&] { adapters().delete_adapter("a"); }),
      HasSubstr("'a' is merged; call unmerge_adapter first"));
  const auto state = peft::get_peft_model_state_dict(*model_, "b");
  EXPECT_THAT(
      message_of([&] { peft::set_peft_model_state_dict(*model_, state, "a"); }),
      HasSubstr("is merged"));
  EXPECT_THAT(
      message_of([&] { peft::hotswap_adapter(*model_, state, lora(), "a"); }),
      HasSubstr("is merged"));
  const Tensor merged = forward();
  adapters().delete_adapter("b");
  EXPECT_TRUE(torch::equal(forward(), merged));
}

TEST_F(Merging, UnloadBringsTheBaseBack) {
  const Tensor weight = parameter("head.weight");
  adapters().merge_adapter();
  adapters().unload();
  EXPECT_TRUE(torch::equal(forward(), base_));
  EXPECT_TRUE(parameter("head.weight").is_same(weight));
}

TEST_F(Merging, ASwitchUnmergesWithAWarning) {
  CollectWarnings warnings;
  adapters().merge_adapter({"b"});
  adapters().set_adapter("a");
  EXPECT_THAT(warnings.all(), HasSubstr("the model is unmerged first"));
  EXPECT_TRUE(torch::equal(forward(), a_));
}

TEST_F(Merging, FollowsTheBaseInValueAndDtype) {
  adapters().merge_adapter();
  {
    const torch::NoGradGuard no_grad;
    parameter("head.weight").mul_(2);
  }
  const Tensor merged = forward();
  adapters().unmerge_adapter();
  EXPECT_TRUE(torch::allclose(merged, forward(), 1e-4, 1e-5));
  adapters().merge_adapter();
  model_->to(torch::kFloat64);
  EXPECT_EQ(forward().scalar_type(), torch::kFloat64);
  const Tensor in_double = forward();
  adapters().unmerge_adapter();
  EXPECT_TRUE(torch::allclose(in_double, forward(), 1e-12, 1e-12));
}

TEST_F(Merging, ScopesSeeThroughAMergedModel) {
  adapters().merge_adapter({"b"});
  {
    const peft::UseAdapter scope(adapters(), "a");
    EXPECT_TRUE(torch::equal(forward(), a_));
  }
  {
    const peft::DisableAdapters scope(adapters());
    EXPECT_TRUE(torch::equal(forward(), base_));
  }
  EXPECT_THAT(
      message_of([&] { (void)peft::ScaleAdapters(adapters(), 2); }),
      HasSubstr("merged into the weights"));
  EXPECT_THAT(
      message_of([&] { (void)peft::BatchAdapters(adapters(), {"a", "b"}); }),
      HasSubstr("'b' are merged into the weights of all rows"));
}

TEST_F(Merging, BaseWeightsAreThereInBothForms) {
  const auto own = peft::get_base_model_state_dict(*model_);
  EXPECT_TRUE(own["head.weight"].is_same(parameter("head.weight")));
  EXPECT_EQ(own.size(), 11);  // embedding, 2 x (2 + 1), 2 norm, 2 head
  const auto merged =
      peft::get_base_model_state_dict(*model_, peft::BaseValues::merged);
  adapters().merge_and_unload({"a"});
  for (const auto& item : peft::get_base_model_state_dict(*model_)) {
    EXPECT_TRUE(torch::equal(merged[item.key()], item.value())) << item.key();
  }
}

TEST_F(Merging, NewBaseWeightsReachAMergedModel) {
  adapters().merge_adapter();
  peft::StateDict twice;
  for (const auto& item : peft::get_base_model_state_dict(*model_)) {
    twice.insert(item.key(), item.value().detach() * 2);
  }
  peft::set_base_model_state_dict(*model_, twice);
  const Tensor merged = forward();
  adapters().unmerge_adapter();
  EXPECT_TRUE(torch::allclose(merged, forward(), 1e-4, 1e-5));

  peft::StateDict wrong;
  wrong.insert("head.weight", torch::zeros({2, 2}));
  wrong.insert("hed.bias", torch::zeros({3}));
  EXPECT_THAT(
      message_of([&] { peft::set_base_model_state_dict(*model_, wrong); }),
      testing::AllOf(
          HasSubstr("'head.weight': given [2, 2], the model has [3, 6]"),
          HasSubstr("10 tensors of the model are missing"),
          HasSubstr("1 tensors given are not the model's: 'hed.bias'")));
}

TEST_F(Merging, NamesThatAreNotThereAreAllNamed) {
  EXPECT_THAT(
      message_of([&] { adapters().merge_adapter({"c", "a", "d"}); }),
      testing::AllOf(HasSubstr("'c'"), HasSubstr("'d'")));
  EXPECT_TRUE(adapters().merged_adapters().empty());
}

struct TiedModel : nn::Module {
  TiedModel() {
    table = register_module("table", nn::Embedding(7, 4));
    head = register_module(
        "head", nn::Linear(nn::LinearOptions(4, 7).bias(false)));
    head->weight = head->named_parameters()["weight"] = table->weight;
  }
  Tensor forward(const Tensor& ids) { return head(table(ids)); }
  nn::Embedding table{nullptr};
  nn::Linear head{nullptr};
};

TEST(MergingTiedLayers, OneOfThemAloneIsMergedBesideAndNotInto) {
  TiedModel model;
  peft::LoraConfig config;
  config.target_modules = {"head"};
  CollectWarnings warnings;
  auto adapters = peft::inject_adapter_in_model(config, model);
  randomise(adapters.parameters("default"));
  const Tensor ids = torch::tensor({1, 5, 0});
  const Tensor before = model.forward(ids);
  adapters.merge_adapter();
  EXPECT_TRUE(torch::allclose(model.forward(ids), before, 1e-4, 1e-5));
  EXPECT_THAT(
      message_of([&] { adapters.merge_and_unload(); }),
      HasSubstr("'table' reads the same tensor"));
}

TEST(MergingTiedLayers, TwoAdaptersOfTheirOwnAreNotMergedIntoOneTensor) {
  TiedModel model;
  peft::LoraConfig config;
  config.target_modules = {"head", "table"};
  CollectWarnings warnings;
  auto adapters = peft::inject_adapter_in_model(config, model);
  randomise(adapters.parameters("default"));
  EXPECT_THAT(
      message_of([&] { adapters.merge_and_unload(); }),
      HasSubstr("does not do the same to both"));
}

TEST(MergingSharedMemory, IsNotDoneInPlace) {
  const Tensor memory = torch::randn({4, 4});
  nn::Sequential model(nn::Linear(4, 4), nn::Linear(4, 4));
  for (const auto& layer : model->children()) {
    layer->as<nn::Linear>()->weight.set_data(memory);
  }
  peft::LoraConfig config;
  config.target_modules = {"0"};
  auto adapters = peft::inject_adapter_in_model(config, *model);
  randomise(adapters.parameters("default"));
  const Tensor x = torch::randn({2, 4});
  const Tensor before = model->forward(x);
  EXPECT_THAT(
      message_of([&] { adapters.merge_and_unload({}, /*in_place=*/true); }),
      HasSubstr("in the same memory"));
  adapters.merge_and_unload();
  EXPECT_TRUE(torch::allclose(model->forward(x), before, 1e-4, 1e-5));
}

struct GroupedModel : nn::Module {
  GroupedModel() {
    conv = register_module(
        "conv", nn::Conv2d(nn::Conv2dOptions(4, 6, 3).groups(2).dilation(2)));
  }
  Tensor forward(const Tensor& x) { return conv(x); }
  nn::Conv2d conv{nullptr};
};

// LoRA on a convolution in groups reads all input channels (as in PEFT), so the
// merged kernel is one of a single group.
TEST(MergingGroups, GivesAKernelOfOneGroup) {
  GroupedModel model;
  peft::LoraConfig config;
  config.r = 4;
  config.lora_alpha = 6;
  config.target_modules = {"conv"};
  auto adapters = peft::inject_adapter_in_model(config, model);
  randomise(adapters.parameters("default"));
  const Tensor x = torch::randn({2, 4, 8, 7});
  const Tensor before = model.forward(x);
  adapters.merge_adapter();
  EXPECT_TRUE(torch::allclose(model.forward(x), before, 1e-4, 1e-5));
  adapters.unmerge_adapter();
  EXPECT_TRUE(torch::equal(model.forward(x), before));
  CollectWarnings warnings;
  adapters.merge_and_unload();
  EXPECT_THAT(warnings.all(), HasSubstr("becomes a convolution in one group"));
  EXPECT_TRUE(torch::allclose(model.forward(x), before, 1e-4, 1e-5));
  EXPECT_EQ(model.conv->weight.sizes(), (std::vector<int64_t>{6, 4, 3, 3}));
}

}  // namespace
}  // namespace peft_test
