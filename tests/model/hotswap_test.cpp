// SPDX-License-Identifier: Apache-2.0
// Another adapter under a name that is in use.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/message_of.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using testing::HasSubstr;
using torch::Tensor;

class Hotswap : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(2);
    model_->eval();
  }

  static peft::LoraConfig lora(int64_t r, double alpha) {
    peft::LoraConfig config;
    config.r = r;
    config.lora_alpha = alpha;
    config.target_modules = {"up", "down", "head"};
    return config;
  }

  struct Saved {
    std::unique_ptr<peft::AdapterConfig> config;
    peft::StateDict weights;
    Tensor y;
  };

  // An adapter of `config` with random weights, what it computes, and gone.
  Saved make(const peft::AdapterConfig& config) {
    auto adapters = peft::inject_adapter_in_model(config, *model_, "made");
    randomise(adapters.parameters("made"));
    Saved saved;
    saved.config = config.clone();
    saved.y = forward();
    for (const auto& item : peft::get_peft_model_state_dict(*model_, "made")) {
      saved.weights.insert(item.key(), item.value().detach().clone());
    }
    adapters.delete_adapter("made");
    return saved;
  }

  Tensor forward() { return model_->forward(text_ids()); }

  peft::Adapters adapters() { return peft::adapters_of(*model_); }

  void expect_swap(const Saved& to) {
    peft::hotswap_adapter(*model_, to.weights, *to.config, "a");
    EXPECT_TRUE(torch::allclose(forward(), to.y, 1e-5, 1e-6));
  }

  TextModel model_;
};

TEST_F(Hotswap, TakesAnyRankAlphaAndVariant) {
  peft::LoraConfig patterned = lora(2, 3);
  patterned.rank_pattern = {{"head", 4}};
  patterned.alpha_pattern = {{"blocks.0.up", 7}};
  peft::LoraConfig rank_stabilised = lora(3, 5);
  rank_stabilised.use_rslora = true;
  peft::LoraConfig dora = lora(3, 5);
  dora.use_dora = true;
  std::vector<Saved> others;
  for (const auto& config :
       {lora(3, 4), lora(1, 4), lora(6, 1), patterned, rank_stabilised, dora}) {
    others.push_back(make(config));
  }
  peft::inject_adapter_in_model(lora(3, 5), *model_, "a");
  for (const Saved& other : others) {
    expect_swap(other);
  }
  const auto& config =
      dynamic_cast<const peft::LoraConfig&>(adapters().config("a"));
  EXPECT_TRUE(config.use_dora);
  EXPECT_EQ(adapters().scaling("a").at("head"), 5.0 / 3);
}

TEST_F(Hotswap, WorksForOtherMethods) {
  peft::IA3Config ia3;
  ia3.target_modules = {"up", "head"};
  ia3.feedforward_modules = {"up"};
  const Saved other = make(ia3);
  peft::inject_adapter_in_model(ia3, *model_, "a");
  expect_swap(other);
}

TEST_F(Hotswap, KeepsTensorsThatAnOptimiserHolds) {
  const Saved other = make(lora(3, 1));
  const Saved wider = make(lora(4, 1));
  auto adapters = peft::inject_adapter_in_model(lora(3, 5), *model_, "a");
  const auto before = adapters.trainable_parameters();
  torch::optim::SGD optimizer(before, 0.1);
  expect_swap(other);
  const auto after = adapters.trainable_parameters();
  ASSERT_EQ(after.size(), before.size());
  for (std::size_t i = 0; i < after.size(); ++i) {
    EXPECT_TRUE(after[i].is_same(before[i]));
  }
  forward().sum().backward();
  optimizer.step();
  EXPECT_FALSE(torch::allclose(forward(), other.y, 1e-5, 1e-6));
  expect_swap(wider);
  for (const Tensor& tensor : adapters.parameters("a")) {
    EXPECT_TRUE(tensor.requires_grad());
  }
}

TEST_F(Hotswap, LayersThatAreMissingGetNoEffect) {
  peft::LoraConfig fewer = lora(2, 4);
  fewer.target_modules = {"up"};
  const Saved other = make(fewer);
  peft::LoraConfig config = lora(3, 5);
  config.init_lora_weights = false;
  peft::inject_adapter_in_model(config, *model_, "a");
  const auto report = peft::hotswap_adapter(*model_, other.weights, fewer, "a");
  EXPECT_EQ(report.missing_keys.size(), 6);  // A and B of two downs and a head
  EXPECT_TRUE(torch::allclose(forward(), other.y, 1e-5, 1e-6));
  const TempFolder folder;
  peft::save_adapter(*model_, folder.path(), "a");
  adapters().unload();
  peft::load_adapter(*model_, folder.path());
  EXPECT_TRUE(torch::allclose(forward(), other.y, 1e-5, 1e-6));
}

TEST_F(Hotswap, RefusesWhatDoesNotFitAndChangesNothing) {
  const Saved same = make(lora(3, 4));
  peft::LoraConfig more = lora(3, 4);
  more.target_modules = {"up", "down", "head", "embedding"};
  const Saved other = make(more);
  peft::inject_adapter_in_model(lora(3, 5), *model_, "a");
  expect_swap(same);
  EXPECT_THAT(
      message_of(
          [&] { peft::hotswap_adapter(*model_, other.weights, more, "a"); }),
      testing::AllOf(
          HasSubstr("2 of 12 tensors given fit nowhere"),
          HasSubstr("embedding.lora_embedding_A")));
  peft::StateDict half = same.weights;
  half.erase("head.lora_B.weight");
  EXPECT_THAT(
      message_of(
          [&] { peft::hotswap_adapter(*model_, half, lora(3, 4), "a"); }),
      HasSubstr("'head.lora_B.weight'"));
  EXPECT_THAT(
      message_of([&] {
        peft::hotswap_adapter(*model_, peft::StateDict(), lora(3, 4), "a");
      }),
      HasSubstr("is empty"));
  EXPECT_THAT(
      message_of([&] {
        peft::hotswap_adapter(*model_, same.weights, peft::IA3Config(), "a");
      }),
      HasSubstr("is of method LORA, the new one of IA3"));
  EXPECT_THAT(
      message_of([&] {
        peft::hotswap_adapter(*model_, same.weights, lora(3, 4), "b");
      }),
      HasSubstr("no adapter 'b'"));
  EXPECT_TRUE(torch::allclose(forward(), same.y, 1e-5, 1e-6));
}

TEST_F(Hotswap, AScopeKeepsWhatItBeganWith) {
  const Saved first = make(lora(2, 4));
  const Saved second = make(lora(2, 4));
  peft::LoraConfig frozen = lora(2, 4);
  frozen.inference_mode = true;
  peft::inject_adapter_in_model(frozen, *model_, "a");
  expect_swap(first);
  {
    const peft::PinAdapters scope(adapters());
    peft::hotswap_adapter(*model_, second.weights, frozen, "a");
    EXPECT_TRUE(torch::allclose(forward(), first.y, 1e-5, 1e-6));
  }
  EXPECT_TRUE(torch::allclose(forward(), second.y, 1e-5, 1e-6));
}

}  // namespace
}  // namespace peft_test
