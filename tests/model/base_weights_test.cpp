// SPDX-License-Identifier: Apache-2.0
// The model's own weights where layers share a tensor, in copies, and from
// archives that torch::save wrote.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <fstream>
#include <sstream>

#include "peft/peft.h"
#include "support/message_of.h"
#include "support/temp_folder.h"
#include "support/tied_model.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using testing::AllOf;
using testing::HasSubstr;
using torch::Tensor;

peft::LoraConfig config_for(peft::ModuleChoice targets) {
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.target_modules = std::move(targets);
  return config;
}

const Tensor tied_ids = torch::tensor({{3, 1, 8}, {1, 0, 7}}, torch::kLong);

TEST(TiedBase, IsOneTensorUnderBothNames) {
  TiedModel model;
  for (const bool adapted : {false, true}) {
    if (adapted) {
      peft::inject_adapter_in_model(config_for({"lm_head", "body"}), *model);
    }
    const auto state = peft::get_base_model_state_dict(*model);
    EXPECT_TRUE(state["lm_head.weight"].is_same(state["embed_tokens.weight"]));
    EXPECT_TRUE(torch::equal(
        state["lm_head.weight"], peft::base_weight(model->lm_head->weight)));
  }
}

TEST(TiedBase, IsSetUnderEitherName) {
  const std::string names[] = {"lm_head.weight", "embed_tokens.weight"};
  for (const std::size_t i : {0, 1}) {
    TiedModel model;
    peft::inject_adapter_in_model(config_for({"body"}), *model);
    peft::StateDict given;
    for (const auto& item : peft::get_base_model_state_dict(*model)) {
      if (item.key() != names[i]) {
        given.insert(item.key(), item.value().detach() + 1);
      }
    }
    const auto report = peft::set_base_model_state_dict(*model, given);
    EXPECT_TRUE(report.missing_keys.empty());
    EXPECT_TRUE(torch::equal(model->lm_head->weight, given[names[1 - i]]));
  }
}

TEST(TiedBase, IsNotGivenTwoValues) {
  TiedModel model;
  peft::StateDict given;
  for (const auto& item : peft::get_base_model_state_dict(*model)) {
    given.insert(item.key(), item.value().detach().clone());
  }
  peft::set_base_model_state_dict(*model, given);
  const Tensor before = model->forward(tied_ids);
  given["lm_head.weight"].add_(1);
  EXPECT_THAT(
      message_of([&] { peft::set_base_model_state_dict(*model, given); }),
      AllOf(
          HasSubstr("'embed_tokens.weight' and 'lm_head.weight' are one "
                    "tensor in the model"),
          HasSubstr("leave out")));
  EXPECT_TRUE(torch::equal(model->forward(tied_ids), before));
}

TEST(TiedBase, IsFrozenWhereNothingButAMemberHoldsIt) {
  TiedModel model;
  // Forward reads it, and no list of libtorch's has it.
  model->body->weight = torch::randn({6, 6}).requires_grad_();
  auto adapters =
      peft::inject_adapter_in_model(config_for({"lm_head"}), *model);
  EXPECT_FALSE(model->body->weight.requires_grad());
  for (const auto& parameter : model->named_parameters()) {
    EXPECT_EQ(
        parameter.value().requires_grad(),
        parameter.key().find("lora") != std::string::npos)
        << parameter.key();
  }
  adapters.unload();
  EXPECT_TRUE(model->body->weight.requires_grad());
}

TEST(TiedBase, ASavedCopyOfTheHeadIsOfWhatItReads) {
  TiedModel model;
  auto config = config_for({"body"});
  config.modules_to_save = {"lm_head"};
  const Tensor before = model->forward(tied_ids);
  peft::inject_adapter_in_model(config, *model);
  EXPECT_TRUE(torch::equal(model->forward(tied_ids), before));
  EXPECT_TRUE(torch::equal(
      peft::get_peft_model_state_dict(*model)["lm_head.weight"],
      model->embed_tokens->weight));
}

// Whose head comes first, which libtorch's clone() unties.
struct HeadFirstImpl : nn::Cloneable<HeadFirstImpl> {
  HeadFirstImpl() { reset(); }
  void reset() override {
    head = register_module(
        "head", nn::Linear(nn::LinearOptions(6, 9).bias(false)));
    table = register_module("table", nn::Embedding(9, 6));
    body = register_module("body", nn::Linear(6, 6));
    head->weight = table->weight;
  }
  Tensor forward(const Tensor& ids) {
    return head(torch::tanh(body(table(ids))));
  }
  nn::Linear head{nullptr};
  nn::Embedding table{nullptr};
  nn::Linear body{nullptr};
};
TORCH_MODULE(HeadFirst);

TEST(Clone, KeepsTiesAndWhatMembersHold) {
  torch::manual_seed(0);
  HeadFirst model;
  model->body->weight = torch::randn({6, 6}).requires_grad_();
  const Tensor plain = model->forward(tied_ids);
  HeadFirst before = peft::clone(model);
  EXPECT_TRUE(torch::equal(before->forward(tied_ids), plain));
  EXPECT_TRUE(before->head->weight.is_same(before->table->weight));
  EXPECT_FALSE(before->table->weight.is_same(model->table->weight));
  EXPECT_FALSE(before->body->weight.is_same(model->body->weight));

  auto adapters =
      peft::inject_adapter_in_model(config_for({"table", "body"}), *model);
  randomise(adapters.parameters("default"));
  HeadFirst copy = peft::clone(model);
  const Tensor y = model->forward(tied_ids);
  EXPECT_TRUE(torch::equal(copy->forward(tied_ids), y));
  const auto state = peft::get_base_model_state_dict(*copy);
  EXPECT_TRUE(state["head.weight"].is_same(state["table.weight"]));
  for (const auto& parameter : copy->named_parameters()) {
    EXPECT_EQ(
        parameter.value().requires_grad(),
        parameter.key().find("lora") != std::string::npos)
        << parameter.key();
  }
  peft::adapters_of(*copy).unload();
  EXPECT_TRUE(torch::equal(copy->forward(tied_ids), plain));
}

TEST(Clone, KeepsTheNamesOfSequentialChildren) {
  torch::manual_seed(0);
  TextModel model;
  const auto names = model->named_parameters().keys();
  TextModel before = peft::clone(model);
  EXPECT_EQ(before->named_parameters().keys(), names);
  auto adapters =
      peft::inject_adapter_in_model(config_for({"up"}), *model, "old");
  randomise(adapters.parameters("old"));

  TextModel copy = peft::clone(model);
  EXPECT_EQ(copy->named_parameters().keys(), model->named_parameters().keys());
  // What comes later has keys of the same tree, and files fit both models.
  auto copied =
      peft::inject_adapter_in_model(config_for({"up", "down"}), *copy, "new");
  randomise(copied.parameters("new"));
  const TempFolder folder;
  peft::save_adapter(*copy, folder / "new", "new");
  peft::save_adapter(*copy, folder / "old", "old");
  peft::load_adapter(*model, folder / "new", "new");
  EXPECT_TRUE(
      torch::equal(model->forward(text_ids()), copy->forward(text_ids())));
  adapters.set_adapter("old");
  copied.set_adapter("old");
  EXPECT_TRUE(
      torch::equal(model->forward(text_ids()), copy->forward(text_ids())));
  copied.unload();
  EXPECT_EQ(copy->named_parameters().keys(), names);
  // And its own clone() goes on working.
  EXPECT_NO_THROW(copy->clone());
}

class BaseArchive : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(0);
    TextModel plain;
    torch::save(plain, archive_);
    plain_ = plain;
    auto config = config_for({"up", "embedding"});
    config.modules_to_save = {"head"};
    adapters_ = std::make_unique<peft::Adapters>(
        peft::inject_adapter_in_model(config, *model_));
    randomise(adapters_->parameters("default"));
  }

  TextModel plain_, model_;
  std::stringstream archive_;
  std::unique_ptr<peft::Adapters> adapters_;
};

TEST_F(BaseArchive, IsLoadedIntoAnAdaptedModel) {
  const auto before = peft::get_peft_model_state_dict(*model_);
  std::vector<Tensor> values;
  for (const auto& item : before) {
    values.push_back(item.value().detach().clone());
  }
  EXPECT_THAT(
      message_of([&] {
        std::stringstream again(archive_.str());
        torch::load(model_, again);
      }),
      HasSubstr("No such serialized submodule"));
  const auto report = peft::load_base_archive(*model_, archive_);
  EXPECT_TRUE(report.missing_keys.empty());
  EXPECT_TRUE(report.unexpected_keys.empty());
  for (const auto& item : plain_->named_parameters()) {
    EXPECT_TRUE(
        torch::equal(model_->named_parameters()[item.key()], item.value()))
        << item.key();
  }
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(torch::equal(before[i].value(), values[i]));
  }
  adapters_->unload();
  EXPECT_TRUE(
      torch::equal(model_->forward(text_ids()), plain_->forward(text_ids())));
}

TEST_F(BaseArchive, GoesIntoAnotherDtypeAndMergedWeights) {
  model_->to(torch::kFloat64);
  adapters_->merge_adapter();
  const TempFolder folder;
  torch::save(plain_, (folder / "base.pt").string());
  peft::load_base_archive(*model_, folder / "base.pt");
  const auto parameters = model_->named_parameters();
  EXPECT_EQ(parameters["head.bias"].scalar_type(), torch::kFloat64);
  const Tensor merged = model_->forward(text_ids());
  adapters_->unmerge_adapter();
  EXPECT_TRUE(torch::allclose(merged, model_->forward(text_ids()), 1e-4, 1e-5));
}

TEST_F(BaseArchive, OfAnotherModelIsRefusedWithAllMistakes) {
  nn::Sequential other;
  other->push_back("embedding", nn::Embedding(12, 6));
  other->push_back("norm", nn::LayerNorm(nn::LayerNormOptions({6})));
  other->push_back("tail", nn::Linear(2, 2));
  std::stringstream archive;
  torch::save(other, archive);
  const Tensor before = model_->forward(text_ids());
  EXPECT_THAT(
      message_of([&] { peft::load_base_archive(*model_, archive); }),
      AllOf(
          HasSubstr("'embedding.weight': the archive has [12, 6], the model "
                    "has [10, 6]"),
          HasSubstr("2 parts of the model are missing: 'blocks', 'head'"),
          HasSubstr("2 parts of the archive are not the model's: "
                    "'tail.weight', 'tail.bias'")));
  EXPECT_TRUE(torch::equal(model_->forward(text_ids()), before));
}

TEST_F(BaseArchive, OfAnAdaptedModelHasMoreThanTheBase) {
  std::stringstream adapted;
  torch::save(model_, adapted);
  const std::string bytes = adapted.str();
  EXPECT_THAT(
      message_of([&] { peft::load_base_archive(*plain_, adapted); }),
      HasSubstr("not the model's: 'embedding.lora_embedding_A.default'"));
  std::stringstream again(bytes);
  const auto report = peft::load_base_archive(*plain_, again, /*strict=*/false);
  EXPECT_TRUE(report.missing_keys.empty());
  adapters_->unload();
  EXPECT_TRUE(
      torch::equal(model_->forward(text_ids()), plain_->forward(text_ids())));
}

TEST_F(BaseArchive, WhatIsNoneIsRefused) {
  std::stringstream text("no archive");
  EXPECT_THAT(
      message_of([&] { peft::load_base_archive(*model_, text); }),
      HasSubstr("is no archive that torch::save wrote"));
  EXPECT_THAT(
      message_of([&] { peft::load_base_archive(*model_, "nowhere.pt"); }),
      HasSubstr("cannot open 'nowhere.pt'"));
}

}  // namespace
}  // namespace peft_test
