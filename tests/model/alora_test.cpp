// SPDX-License-Identifier: Apache-2.0
// Activated LoRA: the adapter acts from the invocation on. The oracle is the
// plain layer with the product added at those positions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/alora.h"
#include "peft/peft.h"
#include "support/message_of.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using torch::Tensor;
namespace nn = torch::nn;

peft::LoraConfig alora() {
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.target_modules = {"layer"};
  config.alora_invocation_tokens = {5, 6};
  return config;
}

class Alora : public testing::Test {
 protected:
  Alora() {
    model_->push_back("layer", layer_);
    w_ = layer_->weight;
    adapters_ = std::make_unique<peft::Adapters>(
        peft::inject_adapter_in_model(alora(), *model_));
    randomise(adapters_->trainable_parameters());
  }

  Tensor product(const Tensor& x) const {
    const auto p = adapters_->parameters("default");
    return 1.5 * torch::linear(torch::linear(x, p[0]), p[1]);
  }

  nn::Linear layer_{5, 4};
  nn::Sequential model_;
  Tensor w_;
  std::unique_ptr<peft::Adapters> adapters_;
};

TEST(AloraOffsets, CountFromTheLastInvocationToTheEnd) {
  const auto ids = torch::tensor(
      {{5, 6, 1, 5, 6, 2}, {5, 5, 5, 5, 5, 5}, {1, 2, 3, 4, 5, 6}});
  EXPECT_THAT(
      peft::calculate_alora_offsets(alora(), ids),
      ElementsAre(std::optional<int64_t>(3), std::nullopt, 2));
  EXPECT_THAT(
      message_of([&] { peft::calculate_alora_offsets(alora(), ids[0]); }),
      HasSubstr("give [batch, positions]"));
  EXPECT_THAT(
      message_of([&] { peft::calculate_alora_offsets({}, ids); }),
      HasSubstr("no alora_invocation_tokens"));
}

TEST_F(Alora, ActsOnTheLastPositionsOfEachRow) {
  const Tensor x = torch::randn({3, 4, 5});
  const Tensor base = torch::linear(x, w_, layer_->bias);
  EXPECT_TRUE(torch::equal(model_->forward(x), base));  // no scope: nowhere
  const peft::AloraScope scope({2, std::nullopt, 9});
  const Tensor mask =
      torch::tensor({{0., 0., 1., 1.}, {0., 0., 0., 0.}, {1., 1., 1., 1.}})
          .to(torch::kFloat32)
          .unsqueeze(2);
  const Tensor expected = base + product(x) * mask;
  const Tensor found = model_->forward(x);
  EXPECT_TRUE(torch::allclose(found, expected, 1e-5, 1e-6));
  EXPECT_TRUE(torch::equal(found[1], base[1]));
  // Positions that were folded into the batch.
  EXPECT_TRUE(torch::allclose(
      model_->forward(x.reshape({12, 5})),
      expected.reshape({12, 4}),
      1e-5,
      1e-6));
  const auto factors = adapters_->parameters("default");
  const auto gradients =
      torch::autograd::grad({found.sum()}, {factors[0], factors[1]}, {}, true);
  const auto wanted =
      torch::autograd::grad({expected.sum()}, {factors[0], factors[1]});
  EXPECT_TRUE(torch::allclose(gradients[0], wanted[0], 1e-4, 1e-5));
  EXPECT_TRUE(torch::allclose(gradients[1], wanted[1], 1e-4, 1e-5));
}

TEST_F(Alora, HasGradientsOfZeroWhereItDoesNotAct) {
  model_->forward(torch::randn({3, 4, 5})).sum().backward();
  for (const auto& tensor : adapters_->trainable_parameters()) {
    EXPECT_EQ(tensor.grad().abs().max().item<float>(), 0);
  }
}

TEST_F(Alora, ScopesNestAndBelongToTheirThread) {
  const Tensor x = torch::randn({1, 3, 5});
  const Tensor base = torch::linear(x, w_, layer_->bias);
  const peft::AloraScope outer({3});
  {
    const peft::AloraScope inner({std::nullopt});
    EXPECT_TRUE(torch::equal(model_->forward(x), base));
  }
  EXPECT_TRUE(
      torch::allclose(model_->forward(x), base + product(x), 1e-5, 1e-6));
  Tensor elsewhere;
  std::thread([&] { elsewhere = model_->forward(x); }).join();
  EXPECT_TRUE(torch::equal(elsewhere, base));
}

TEST_F(Alora, ScopesMayEndOutOfOrderAndInAnotherThread) {
  const Tensor x = torch::randn({1, 3, 5});
  const Tensor base = torch::linear(x, w_, layer_->bias);
  const auto changed = [&](const Tensor& y) { return !torch::equal(y, base); };
  auto outer = std::make_unique<peft::AloraScope>(peft::AloraOffsets{3});
  auto inner =
      std::make_unique<peft::AloraScope>(peft::AloraOffsets{std::nullopt});
  outer.reset();
  EXPECT_FALSE(changed(model_->forward(x)));
  inner.reset();
  EXPECT_FALSE(changed(model_->forward(x)));

  auto elsewhere = std::make_unique<peft::AloraScope>(peft::AloraOffsets{3});
  EXPECT_TRUE(changed(model_->forward(x)));
  std::thread([&] { elsewhere.reset(); }).join();
  EXPECT_FALSE(changed(model_->forward(x)));
  const peft::AloraScope again({3});
  EXPECT_TRUE(changed(model_->forward(x)));
}

TEST_F(Alora, SaysWhatItCannotDo) {
  const peft::AloraScope scope({1, 1});
  EXPECT_THAT(
      message_of([&] { model_->forward(torch::randn({3, 4, 5})); }),
      HasSubstr("offsets for 2 rows, and an aLoRA layer sees [3, 4, 5]"));
  EXPECT_THAT(
      message_of([&] { peft::effective_weight(layer_->weight); }),
      HasSubstr("has no effective weight"));
  nn::Sequential table;
  table->push_back("layer", nn::Embedding(3, 2));
  EXPECT_THAT(
      message_of([&] { peft::inject_adapter_in_model(alora(), *table); }),
      HasSubstr("need a linear layer"));
  struct Attention : nn::Module {
    Attention() {
      register_module(
          "layer", nn::MultiheadAttention(nn::MultiheadAttentionOptions(4, 2)));
    }
  } attention;
  EXPECT_THAT(
      message_of([&] { peft::inject_adapter_in_model(alora(), attention); }),
      HasSubstr("of an attention, which reads positions first"));
  auto dora = alora();
  dora.use_dora = true;
  EXPECT_THAT(
      message_of([&] { peft::inject_adapter_in_model(dora, *model_, "x"); }),
      HasSubstr("use_dora"));
}

TEST_F(Alora, GoesThroughFiles) {
  const TempFolder folder;
  const Tensor x = torch::randn({2, 3, 5});
  const peft::AloraScope scope({1, 2});
  const Tensor y = model_->forward(x);
  peft::save_pretrained(*model_, folder.path());
  adapters_->unload();
  auto adapters = peft::load_adapter(*model_, folder.path());
  EXPECT_TRUE(torch::equal(model_->forward(x), y));
  const auto& config = dynamic_cast<const peft::LoraConfig&>(adapters.config());
  EXPECT_THAT(*config.alora_invocation_tokens, ElementsAre(5, 6));
}

}  // namespace
}  // namespace peft_test
