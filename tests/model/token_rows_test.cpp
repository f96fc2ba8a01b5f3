// SPDX-License-Identifier: Apache-2.0
// trainable_token_indices: rows replaced, others without a gradient, tied heads
// with them. The oracle is autograd on the table with those rows copied in.
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

using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;
using torch::Tensor;
namespace nn = torch::nn;

peft::LoraConfig rows_config(peft::TokenChoice tokens) {
  peft::LoraConfig config;
  config.r = 2;
  config.target_modules = {"body"};
  config.trainable_token_indices = std::move(tokens);
  return config;
}

const Tensor some_ids = torch::tensor({{3, 1, 8}, {1, 0, 7}}, torch::kLong);

TEST(TokenRows, ReplaceRowsInTheEmbeddingAndTheTiedHead) {
  TiedModel model;
  const Tensor table = model->embed_tokens->weight;
  const auto before = model->forward(some_ids);
  // Not in order: the file's rows follow the config's.
  auto adapters = peft::inject_adapter_in_model(rows_config({8, 1, 3}), *model);
  EXPECT_TRUE(torch::allclose(model->forward(some_ids), before, 1e-5, 1e-6));
  const auto state = peft::get_peft_model_state_dict(*model);
  EXPECT_THAT(
      state.keys(),
      UnorderedElementsAre(
          "body.lora_A.weight",
          "body.lora_B.weight",
          "embed_tokens.token_adapter.trainable_tokens_delta"));
  const Tensor rows =
      state["embed_tokens.token_adapter.trainable_tokens_delta"];
  EXPECT_THAT(rows.sizes(), ElementsAre(3, 6));
  EXPECT_TRUE(torch::equal(rows[0], table[8]));
  randomise(std::vector<Tensor>{rows});

  const Tensor same = rows.detach().clone().requires_grad_();
  const Tensor changed = table.detach().index_copy(
      0, torch::tensor({8, 1, 3}, torch::kLong), same);
  const auto expected = model->forward_with(some_ids, changed, changed);
  const auto formed = peft::detail::effective_weights_formed();
  const auto found = model->forward(some_ids);
  EXPECT_EQ(peft::detail::effective_weights_formed(), formed);
  EXPECT_TRUE(torch::allclose(found, expected, 1e-5, 1e-6));
  const Tensor direction = torch::randn(found.sizes());
  (found * direction).sum().backward();
  (expected * direction).sum().backward();
  EXPECT_TRUE(torch::allclose(rows.grad(), same.grad(), 1e-5, 1e-6));
  EXPECT_FALSE(table.grad().defined());
  // Read by any other operator.
  EXPECT_TRUE(torch::allclose(
      model->embed_tokens->weight.mul(2), changed * 2, 1e-6, 1e-6));

  adapters.unload();
  EXPECT_TRUE(model->embed_tokens->weight.is_same(table));
  EXPECT_TRUE(model->lm_head->weight.is_same(table));
  EXPECT_TRUE(torch::equal(model->forward(some_ids), before));
}

TEST(TokenRows, GoThroughFilesAndClones) {
  const TempFolder folder;
  TiedModel model;
  auto adapters = peft::inject_adapter_in_model(
      rows_config({{"embed_tokens", {7, 3}}}), *model);
  randomise(adapters.trainable_parameters());
  const auto y = model->forward(some_ids);
  peft::save_pretrained(*model, folder.path());
  TiedModel again;
  peft::copy_into(*model, *again);
  EXPECT_TRUE(torch::equal(again->forward(some_ids), y));
  adapters.unload();
  peft::load_adapter(*model, folder.path());
  EXPECT_TRUE(torch::equal(model->forward(some_ids), y));
}

TEST(TokenRows, AndSavedModulesAreInTheStateOfTraining) {
  peft::AdaLoraConfig config;
  config.init_r = 3;
  config.target_r = 2;
  config.total_step = 10;
  config.target_modules = {"body"};
  config.trainable_token_indices = {1, 3};
  TiedModel model;
  auto adapters = peft::inject_adapter_in_model(config, *model);
  randomise(adapters.trainable_parameters());
  TiedModel again;
  peft::copy_into(*model, *again);
  const auto state = adapters.training_state();
  const auto y = again->forward(some_ids);
  auto copy = peft::adapters_of(*again);
  randomise(copy.trainable_parameters());
  copy.load_training_state(state);
  EXPECT_TRUE(torch::equal(again->forward(some_ids), y));
}

TEST(TokenRows, MoveWithTheModel) {
  TiedModel model;
  auto adapters = peft::inject_adapter_in_model(rows_config({1, 3}), *model);
  randomise(adapters.trainable_parameters());
  const auto y = model->forward(some_ids);
  model->to(torch::kFloat64);
  EXPECT_TRUE(torch::allclose(
      model->forward(some_ids), y.to(torch::kFloat64), 1e-5, 1e-6));
  EXPECT_EQ(model->embed_tokens->weight.scalar_type(), torch::kFloat64);
}

TEST(TokenRows, OfThePaddingTokenGetNoGradient) {
  nn::Sequential model;
  model->push_back(
      "table", nn::Embedding(nn::EmbeddingOptions(5, 3).padding_idx(2)));
  nn::Linear body(3, 3);
  model->push_back("body", body);
  {
    const torch::NoGradGuard no_grad;
    body->weight.copy_(torch::eye(3));
  }
  peft::inject_adapter_in_model(rows_config({2, 4}), *model);
  const Tensor rows = peft::get_peft_model_state_dict(
      *model)["table.token_adapter.trainable_tokens_delta"];
  model->forward(torch::tensor({2, 4, 4, 0})).sum().backward();
  EXPECT_TRUE(torch::equal(
      rows.grad(), torch::tensor({{0.f, 0.f, 0.f}, {2.f, 2.f, 2.f}})));
}

TEST(TokenRows, OfTwoAdaptersActTogetherUnlessTheyMeet) {
  TiedModel model;
  const Tensor table = model->embed_tokens->weight.detach();
  auto adapters = peft::inject_adapter_in_model(rows_config({1}), *model, "a");
  peft::inject_adapter_in_model(rows_config({8, 0}), *model, "b");
  peft::inject_adapter_in_model(rows_config({0, 5}), *model, "c");
  for (const auto* name : {"a", "b", "c"}) {
    randomise(
        adapters.parameters(name).size()
            ? std::vector<Tensor>{peft::get_peft_model_state_dict(
                  *model,
                  name)["embed_tokens.token_adapter.trainable_tokens_delta"]}
            : std::vector<Tensor>{});
  }
  adapters.set_adapter({"a", "b"});
  const auto rows = [&](const char* name) {
    return peft::get_peft_model_state_dict(
        *model, name)["embed_tokens.token_adapter.trainable_tokens_delta"];
  };
  const Tensor changed =
      table.index_copy(0, torch::tensor({1}), rows("a").detach())
          .index_copy(0, torch::tensor({8, 0}), rows("b").detach());
  EXPECT_TRUE(torch::allclose(
      model->forward(some_ids),
      model->forward_with(some_ids, changed, changed),
      1e-5,
      1e-6));
  EXPECT_THAT(
      message_of([&] { adapters.set_adapter({"b", "c"}); }),
      HasSubstr("'b' and 'c' both train row 0 of 'embed_tokens'"));
}

TEST(TokenRows, SayWhatIsWrongWithThem) {
  TiedModel model;
  EXPECT_THAT(
      message_of([&] {
        peft::inject_adapter_in_model(rows_config({2, 9, 11}), *model);
      }),
      HasSubstr("has '9', '11', and the weight has 9 rows"));
  EXPECT_THAT(
      message_of([&] {
        peft::inject_adapter_in_model(
            rows_config({{"embeddings", {1}}}), *model);
      }),
      HasSubstr("the model has no layer 'embeddings'"));
  auto config = rows_config({1});
  config.target_modules = {"body", "embed_tokens"};
  EXPECT_THAT(
      message_of([&] { peft::inject_adapter_in_model(config, *model); }),
      HasSubstr("chosen by trainable_token_indices and by target_modules"));
  config = rows_config({1});
  config.modules_to_save = {"embed_tokens"};
  EXPECT_THAT(
      message_of([&] { peft::inject_adapter_in_model(config, *model); }),
      HasSubstr("chosen by trainable_token_indices and by modules_to_save"));
  config = rows_config({{"embed_tokens", {1, 2}}, {"lm_head", {1, 3}}});
  config.ensure_weight_tying = true;
  EXPECT_THAT(
      message_of([&] { peft::inject_adapter_in_model(config, *model); }),
      HasSubstr("share their weight and are given different rows"));
  EXPECT_THAT(
      message_of([&] {
        nn::Sequential two(nn::Embedding(3, 2), nn::Embedding(3, 2));
        auto rows = rows_config({1});
        rows.target_modules = {"0"};
        peft::inject_adapter_in_model(rows, *two);
      }),
      HasSubstr("several embeddings, '0', '1'; name the layer"));
}

}  // namespace
}  // namespace peft_test
