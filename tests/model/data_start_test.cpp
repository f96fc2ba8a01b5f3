// SPDX-License-Identifier: Apache-2.0
// LoRA's starts from data: what the passes see, what the factors start as, and
// that the base stays as it is. The oracle is the papers' algebra.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/lora_init_data.h"
#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/message_of.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;
using torch::Tensor;

peft::LoraConfig start(const char* scheme) {
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 6;
  config.target_modules = {"up", "down"};
  config.init_lora_weights = scheme;
  config.lora_ga_config = peft::LoraGAConfig{};
  return config;
}

std::vector<Tensor> batches() {
  return {text_ids(), torch::tensor({{4, 8, 2, 6}, {7, 3, 5, 1}})};
}

class DataStart : public testing::Test {
 protected:
  DataStart() {
    torch::manual_seed(3);
    model_ = TextModel();
    model_->eval();
  }
  void run_all() {
    for (const auto& ids : batches()) {
      model_->forward(ids);
    }
  }
  Tensor weight(const std::string& path) {
    return model_->named_parameters()[path + ".weight"];
  }
  TextModel model_{nullptr};
};

TEST_F(DataStart, CordaSeesTheCovarianceOfInputs) {
  model_->train();
  const auto before = model_->forward(text_ids());
  const auto data =
      peft::preprocess_corda(start("corda"), *model_, [&] { run_all(); });
  EXPECT_TRUE(model_->is_training());
  EXPECT_THAT(
      data.keys(),
      UnorderedElementsAre(
          "blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down"));
  Tensor expected = torch::zeros({6, 6});
  for (const auto& ids : batches()) {  // what the first layer sees
    const Tensor x =
        torch::embedding(weight("embedding"), ids).reshape({-1, 6}).detach();
    const Tensor scaled = x / x.max().abs();
    expected += scaled.t().mm(scaled) / 2;
  }
  EXPECT_TRUE(torch::allclose(data["blocks.0.up"], expected, 1e-4, 1e-5));
  EXPECT_TRUE(torch::equal(model_->forward(text_ids()), before));
  EXPECT_FALSE(peft::is_adapted(weight("blocks.0.up")));
}

TEST_F(DataStart, LoraGaSeesTheMeanGradient) {
  weight("head").mutable_grad() = torch::ones({3, 6});
  const auto data = peft::preprocess_loraga(start("lora_ga"), *model_, [&] {
    for (const auto& ids : batches()) {
      model_->forward(ids).square().sum().backward();
    }
  });
  EXPECT_FALSE(model_->is_training());
  EXPECT_TRUE(weight("head").requires_grad());
  EXPECT_TRUE(torch::equal(weight("head").grad(), torch::ones({3, 6})));
  const Tensor w = weight("blocks.1.up");
  EXPECT_FALSE(w.grad().defined());
  Tensor expected = torch::zeros_like(w);
  for (const auto& ids : batches()) {
    expected +=
        torch::autograd::grad({model_->forward(ids).square().sum()}, {w})[0] /
        2;
  }
  EXPECT_TRUE(torch::allclose(data["blocks.1.up"], expected, 1e-4, 1e-5));
}

class FromData : public DataStart,
                 public testing::WithParamInterface<const char*> {
 protected:
  peft::StateDict pass(const peft::LoraConfig& config) {
    if (std::string(GetParam()) == "corda") {
      return peft::preprocess_corda(config, *model_, [&] { run_all(); });
    }
    return peft::preprocess_loraga(config, *model_, [&] {
      model_->forward(batches()[0]).square().sum().backward();
    });
  }
};

TEST_P(FromData, StartsAsTheBaseAndIsSavedAsPlainLora) {
  const auto config = start(GetParam());
  const Tensor before = model_->forward(text_ids());
  const Tensor w = weight("blocks.0.up").detach().clone();
  const auto data = pass(config);
  auto adapters = peft::inject_adapter_in_model(
      config, *model_, "default", {.init_data = &data});
  EXPECT_TRUE(torch::allclose(model_->forward(text_ids()), before, 1e-5, 1e-6));
  EXPECT_TRUE(torch::equal(weight("blocks.0.up"), w));
  for (const auto& tensor : adapters.trainable_parameters()) {
    EXPECT_GT(tensor.abs().max().item<float>(), 0);
  }
  randomise(adapters.trainable_parameters());
  const Tensor y = model_->forward(text_ids());
  const TempFolder folder;
  peft::save_pretrained(*model_, folder.path());
  TextModel copy;
  peft::copy_into(*model_, *copy);
  EXPECT_TRUE(torch::allclose(copy->forward(text_ids()), y, 1e-5, 1e-6));
  adapters.unload();
  auto loaded = peft::load_adapter(*model_, folder.path());
  const auto& saved = dynamic_cast<const peft::LoraConfig&>(loaded.config());
  EXPECT_EQ(saved.r, 4);
  EXPECT_TRUE(saved.init_lora_weights.is_default());
  EXPECT_TRUE(torch::allclose(model_->forward(text_ids()), y, 1e-5, 1e-6));
}

TEST_P(FromData, NeedsItsData) {
  EXPECT_THAT(
      message_of(
          [&] { peft::inject_adapter_in_model(start(GetParam()), *model_); }),
      HasSubstr("from data, and there is none; run peft::preprocess_"));
  peft::StateDict wrong;
  for (const auto* path :
       {"blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down"}) {
    wrong.insert(path, torch::eye(4));
  }
  EXPECT_THAT(
      message_of([&] {
        peft::inject_adapter_in_model(
            start(GetParam()), *model_, "default", {.init_data = &wrong});
      }),
      HasSubstr("blocks.0.up"));
  EXPECT_FALSE(peft::is_adapted(weight("blocks.0.up")));
}
INSTANTIATE_TEST_SUITE_P(
    Schemes,
    FromData,
    testing::Values("corda", "lora_ga"));

TEST_F(DataStart, EvaSharesOutRanksAndStartsAtTheBase) {
  auto config = start("eva");
  config.eva_config = peft::EvaConfig{.rho = 2};
  const Tensor before = model_->forward(text_ids());
  const auto all = batches();
  std::vector<Tensor> large;
  for (int i = 0; i < 3; ++i) {
    large.push_back(torch::randint(10, {8, 5}));
  }
  const auto data = peft::preprocess_eva(
      config, *model_, [&](std::int64_t i) { model_->forward(large[i % 3]); });
  std::int64_t ranks = 0;
  for (const auto& item : data) {
    EXPECT_LE(item.value().size(0), 4);
    ranks += item.value().size(0);
    const Tensor gram = item.value().mm(item.value().t());
    EXPECT_TRUE(
        torch::allclose(gram, torch::eye(item.value().size(0)), 1e-3, 1e-3));
  }
  EXPECT_EQ(ranks, 8);
  auto adapters = peft::inject_adapter_in_model(
      config, *model_, "default", {.init_data = &data});
  EXPECT_TRUE(torch::equal(model_->forward(text_ids()), before));
  const auto state = peft::get_peft_model_state_dict(*model_);
  auto scaling = adapters.scaling("default");
  for (const auto& item : data) {
    const auto key = item.key() + ".lora_A.weight";
    if (item.value().size(0) == 0) {
      EXPECT_FALSE(state.contains(key));
    } else {
      EXPECT_TRUE(torch::equal(state[key], item.value()));
      EXPECT_DOUBLE_EQ(scaling[item.key()], 3);  // alpha grows with the rank
    }
  }
  const TempFolder folder;
  randomise(adapters.trainable_parameters());
  const Tensor y = model_->forward(text_ids());
  peft::save_pretrained(*model_, folder.path());
  adapters.unload();
  peft::load_adapter(*model_, folder.path());
  EXPECT_TRUE(torch::equal(model_->forward(text_ids()), y));
}

TEST_F(DataStart, EvaSaysWhenItDoesNotSettle) {
  auto config = start("eva");
  EXPECT_THAT(
      message_of([&] {
        peft::preprocess_eva(
            config,
            *model_,
            [&](std::int64_t) { model_->forward(torch::randint(10, {8, 5})); },
            {.most_batches = 1});
      }),
      HasSubstr("still move after 1 batches"));
}

TEST_F(DataStart, TrainingPassesLeaveStatisticsAndRefuseWhatIsNotFinite) {
  torch::nn::Sequential model;
  model->push_back("up", torch::nn::Linear(6, 5));
  model->push_back("norm", torch::nn::BatchNorm1d(5));
  model->push_back("down", torch::nn::Linear(5, 6));
  const auto before = model->buffers()[0].clone();
  const auto pass = [&](double factor) {
    return peft::preprocess_loraga(start("lora_ga"), *model, [&] {
      (model->forward(torch::randn({4, 6})).sum() * factor).backward();
    });
  };
  pass(1);
  EXPECT_TRUE(torch::equal(model->buffers()[0], before));
  EXPECT_EQ(model->buffers()[2].item<std::int64_t>(), 0);
  EXPECT_THAT(
      message_of([&] { pass(std::nan("")); }), HasSubstr("is not finite"));
}

TEST_F(DataStart, PassesLeaveTheModelAsItWasAfterAnError) {
  auto other = start("gaussian");
  auto adapters = peft::inject_adapter_in_model(other, *model_, "other");
  randomise(adapters.trainable_parameters());
  const Tensor before = model_->forward(text_ids());
  EXPECT_THAT(
      message_of([&] {
        peft::preprocess_corda(start("corda"), *model_, [&] {
          run_all();
          throw std::runtime_error("no more data");
        });
      }),
      HasSubstr("no more data"));
  EXPECT_TRUE(torch::equal(model_->forward(text_ids()), before));
  EXPECT_THAT(
      message_of(
          [&] { peft::preprocess_corda(start("corda"), *model_, [] {}); }),
      HasSubstr("saw no input"));
  EXPECT_THAT(
      message_of([&] { peft::preprocess_corda(start("corda"), *model_, {}); }),
      HasSubstr("no function was given"));
  EXPECT_THAT(
      message_of([&] {
        peft::preprocess_corda(start("eva"), *model_, [&] { run_all(); });
      }),
      HasSubstr("init_lora_weights is not 'corda'"));
  EXPECT_TRUE(torch::equal(model_->forward(text_ids()), before));
}

}  // namespace
}  // namespace peft_test
