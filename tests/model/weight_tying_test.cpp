// SPDX-License-Identifier: Apache-2.0
// ensure_weight_tying: one adapter, or one copy, in both layers that share a
// weight. The oracle is autograd on the table that both read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "hosting/adapted_weight.h"
#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/message_of.h"
#include "support/temp_folder.h"
#include "support/tied_model.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using testing::HasSubstr;
using testing::UnorderedElementsAre;
using torch::Tensor;

const Tensor some_ids = torch::tensor({{3, 1, 8}, {1, 0, 7}}, torch::kLong);

peft::LoraConfig tying(std::initializer_list<std::string> targets) {
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.target_modules = targets;
  config.ensure_weight_tying = true;
  return config;
}

class WeightTying : public testing::TestWithParam<const char*> {};

TEST_P(WeightTying, OneLoraActsInTheEmbeddingAndTheHead) {
  TiedModel model;
  const Tensor table = model->embed_tokens->weight;
  auto adapters =
      peft::inject_adapter_in_model(tying({GetParam(), "body"}), *model);
  randomise(adapters.trainable_parameters());
  EXPECT_EQ(adapters.trainable_parameters().size(), 4);
  const auto state = peft::get_peft_model_state_dict(*model);
  EXPECT_THAT(
      state.keys(),
      UnorderedElementsAre(
          "embed_tokens.lora_embedding_A",
          "embed_tokens.lora_embedding_B",
          "body.lora_A.weight",
          "body.lora_B.weight",
          "lm_head.lora_A.weight",
          "lm_head.lora_B.weight"));
  const Tensor A = state["embed_tokens.lora_embedding_A"];
  const Tensor B = state["embed_tokens.lora_embedding_B"];
  EXPECT_TRUE(torch::equal(state["lm_head.lora_A.weight"], B.t()));
  EXPECT_TRUE(torch::equal(state["lm_head.lora_B.weight"], A.t()));

  const Tensor a = A.detach().clone().requires_grad_();
  const Tensor b = B.detach().clone().requires_grad_();
  const Tensor w = table.detach() + 1.5 * b.mm(a).t();
  const Tensor body = peft::base_weight(model->body->weight) +
      1.5 *
          state["body.lora_B.weight"].detach().mm(
              state["body.lora_A.weight"].detach());
  const auto expected = torch::linear(
      torch::tanh(torch::linear(
          torch::embedding(w, some_ids), body, model->body->bias)),
      w);
  const auto formed = peft::detail::effective_weights_formed();
  const auto found = model->forward(some_ids);
  EXPECT_EQ(peft::detail::effective_weights_formed(), formed);
  EXPECT_TRUE(torch::allclose(found, expected, 1e-5, 1e-6))
      << (found - expected).abs().max();
  const Tensor direction = torch::randn(found.sizes());
  (found * direction).sum().backward();
  (expected * direction).sum().backward();
  EXPECT_TRUE(torch::allclose(A.grad(), a.grad(), 1e-4, 1e-5));
  EXPECT_TRUE(torch::allclose(B.grad(), b.grad(), 1e-4, 1e-5));
}
INSTANTIATE_TEST_SUITE_P(
    ByEither,
    WeightTying,
    testing::Values("embed_tokens", "lm_head"));

TEST(WeightTying, TheConfigNamesTheTable) {
  TiedModel model;
  auto adapters =
      peft::inject_adapter_in_model(tying({"lm_head", "body"}), *model);
  EXPECT_THAT(
      adapters.config().target_modules.names(),
      UnorderedElementsAre("embed_tokens", "body"));
}

TEST(WeightTying, GoesThroughFiles) {
  const TempFolder folder;
  TiedModel model;
  auto adapters =
      peft::inject_adapter_in_model(tying({"embed_tokens"}), *model);
  randomise(adapters.trainable_parameters());
  const auto y = model->forward(some_ids);
  peft::save_pretrained(*model, folder.path());
  EXPECT_EQ(peft::load_peft_weights(folder.path()).size(), 4);
  adapters.unload();
  peft::load_adapter(*model, folder.path());
  EXPECT_TRUE(torch::equal(model->forward(some_ids), y));
  TiedModel copy;
  peft::copy_into(*model, *copy);
  EXPECT_TRUE(torch::equal(copy->forward(some_ids), y));
}

TEST(WeightTying, LeavesOtherAdaptersOfTheHeadAlone) {
  TiedModel model;
  auto plain = tying({"lm_head"});
  plain.ensure_weight_tying = false;
  const CollectWarnings warnings;
  auto adapters = peft::inject_adapter_in_model(plain, *model, "head");
  randomise(adapters.trainable_parameters());
  const auto with_head = model->forward(some_ids);
  peft::inject_adapter_in_model(tying({"embed_tokens"}), *model, "tied");
  randomise(adapters.parameters("tied"));
  const Tensor w = peft::effective_weight(model->embed_tokens->weight);
  EXPECT_TRUE(torch::allclose(
      model->forward(some_ids),
      model->forward_with(some_ids, w, w),
      1e-5,
      1e-6));
  adapters.set_adapter("head");
  EXPECT_TRUE(torch::equal(model->forward(some_ids), with_head));
}

TEST(WeightTying, MakesOneCopyOfSavedModules) {
  TiedModel model;
  auto config = tying({"body"});
  config.modules_to_save = {"embed_tokens"};
  auto adapters = peft::inject_adapter_in_model(config, *model);
  const auto state = peft::get_peft_model_state_dict(*model);
  EXPECT_TRUE(state["embed_tokens.weight"].is_same(state["lm_head.weight"]));
  EXPECT_EQ(adapters.trainable_parameters().size(), 3);
  randomise(std::vector<Tensor>{state["embed_tokens.weight"]});
  const Tensor w = state["lm_head.weight"];
  EXPECT_TRUE(torch::allclose(
      model->forward(some_ids),
      model->forward_with(some_ids, w, w),
      1e-5,
      1e-6));
}

TEST(WeightTying, SaysWhenThereIsNothingToTie) {
  const CollectWarnings warnings;
  TiedModel model;
  peft::inject_adapter_in_model(tying({"body"}), *model);
  EXPECT_THAT(warnings.all(), HasSubstr("no chosen weight is tied"));
}

// A table with two heads, as translation models have them.
struct TwoHeads : torch::nn::Module {
  TwoHeads() {
    namespace nn = torch::nn;
    table = register_module("table", nn::Embedding(9, 6));
    for (auto [name, head] : {std::pair("a", &a), std::pair("b", &b)}) {
      *head = register_module(
          name, nn::Linear(nn::LinearOptions(6, 9).bias(false)));
      (*head)->weight = table->weight;
    }
  }
  torch::nn::Embedding table{nullptr};
  torch::nn::Linear a{nullptr}, b{nullptr};
};

peft::LoraConfig apart(std::initializer_list<std::string> targets) {
  auto config = tying(targets);
  config.ensure_weight_tying = false;
  return config;
}

TEST(WeightTying, IsNotedOnceForAllThatShareATensor) {
  TwoHeads model;
  {
    const CollectWarnings warnings;
    peft::inject_adapter_in_model(apart({"table"}), model, "first");
    EXPECT_EQ(
        warnings.all(),
        "adapter 'first': 'table.weight' is the same tensor as 'a.weight', "
        "'b.weight'; only the first is adapted, target all to adapt all, or "
        "set ensure_weight_tying for one adapter in all\n");
  }
  {
    const CollectWarnings warnings;
    peft::inject_adapter_in_model(apart({"table"}), model, "second");
    EXPECT_EQ(warnings.all(), "");
  }
  const CollectWarnings warnings;
  peft::inject_adapter_in_model(apart({"table", "a"}), model, "third");
  EXPECT_EQ(
      warnings.all(),
      "adapter 'third': 'table.weight', 'a.weight' are the same tensor as "
      "'b.weight'; only the first 2 are adapted, target all to adapt all, or "
      "set ensure_weight_tying for one adapter in all\n");
  peft::inject_adapter_in_model(apart({"table", "a", "b"}), model, "fourth");
  EXPECT_EQ(warnings.size(), 1);
}

TEST(WeightTying, RefusesWhatHasNoFormForAHead) {
  TiedModel model;
  auto config = tying({"embed_tokens"});
  config.use_dora = true;
  EXPECT_THAT(
      message_of([&] { peft::inject_adapter_in_model(config, *model); }),
      HasSubstr("this kind of adapter has no form for a head"));
  EXPECT_FALSE(peft::is_adapted(model->embed_tokens->weight));
}

}  // namespace
}  // namespace peft_test
