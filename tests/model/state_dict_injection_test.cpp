// SPDX-License-Identifier: Apache-2.0
// Injection by the keys and shapes of a state dict, and empty injection.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

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
using testing::UnorderedElementsAreArray;
using torch::Tensor;
namespace nn = torch::nn;

// Trains nothing: an adapter on some layers with odd ranks, and its tensors.
peft::StateDict tensors_of(const peft::AdapterConfig& config) {
  TextModel model;
  auto adapters = peft::inject_adapter_in_model(config, *model);
  randomise(adapters.parameters("default"));
  peft::StateDict copy;
  for (const auto& item : peft::get_peft_model_state_dict(*model)) {
    copy.insert(item.key(), item.value().detach().clone());
  }
  return copy;
}

peft::LoraConfig some_lora() {
  peft::LoraConfig config;
  config.r = 3;
  config.lora_alpha = 6;
  config.target_modules = {"blocks.0.up", "down", "embedding"};
  config.rank_pattern = {{"blocks.1.down", 2}, {"embedding", 4}};
  return config;
}

const auto layers_of_some_lora = {
    "embedding",
    "blocks.0.up",
    "blocks.0.down",
    "blocks.1.down"};

TEST(StateDictInjection, ReadsLayersAndRanks) {
  const auto weights = tensors_of(some_lora());
  TextModel model;
  peft::LoraConfig config;  // no target_modules
  config.lora_alpha = 6;
  auto adapters = peft::inject_adapter_in_model(
      config, *model, "default", {.state_dict = &weights});
  const auto report = peft::set_peft_model_state_dict(*model, weights);
  EXPECT_TRUE(report.missing_keys.empty());
  EXPECT_TRUE(report.unexpected_keys.empty());
  EXPECT_THAT(
      adapters.report().adapted(),
      UnorderedElementsAreArray(layers_of_some_lora));
  const auto& found = dynamic_cast<const peft::LoraConfig&>(adapters.config());
  EXPECT_EQ(found.r, 3);
  EXPECT_THAT(
      found.target_modules.names(),
      UnorderedElementsAreArray(layers_of_some_lora));
  // The config tells all: a file of it loads.
  const TempFolder folder;
  peft::save_pretrained(*model, folder.path());
  const auto y = model->forward(text_ids());
  adapters.unload();
  peft::load_adapter(*model, folder.path());
  EXPECT_TRUE(torch::equal(model->forward(text_ids()), y));
}

TEST(StateDictInjection, TakesKeysWithPrefixAndAdapterName) {
  peft::StateDict weights;
  for (const auto& item : tensors_of(some_lora())) {
    auto key = item.key();
    if (const auto dot = key.find(".weight"); dot != std::string::npos) {
      key.insert(dot, ".default");
    }
    weights.insert("base_model.model." + key, item.value());
  }
  TextModel model;
  auto adapters = peft::inject_adapter_in_model(
      peft::LoraConfig(), *model, "default", {.state_dict = &weights});
  EXPECT_THAT(
      adapters.report().adapted(),
      UnorderedElementsAreArray(layers_of_some_lora));
  const auto report = peft::set_peft_model_state_dict(*model, weights);
  EXPECT_TRUE(report.missing_keys.empty());
  EXPECT_TRUE(report.unexpected_keys.empty());
}

TEST(StateDictInjection, TakesAlphasWhereTheyAreKnown) {
  auto weights = tensors_of(some_lora());
  weights.insert("blocks.0.up.alpha", torch::tensor(12.0));
  TextModel model;
  peft::LoraConfig config;
  config.lora_alpha = 6;
  auto adapters = peft::inject_adapter_in_model(
      config, *model, "default", {.state_dict = &weights});
  auto scaling = adapters.scaling("default");
  EXPECT_EQ(scaling["blocks.0.up"], 4);
  EXPECT_EQ(scaling["blocks.1.down"], 3);
  EXPECT_EQ(scaling["embedding"], 1.5);
  EXPECT_TRUE(
      peft::set_peft_model_state_dict(*model, weights).unexpected_keys.empty());
}

TEST(StateDictInjection, ReadsDoraAndBiases) {
  auto dora = some_lora();
  dora.use_dora = true;
  auto weights = tensors_of(dora);
  TextModel model;
  auto adapters = peft::inject_adapter_in_model(
      peft::LoraConfig(), *model, "dora", {.state_dict = &weights});
  EXPECT_TRUE(
      dynamic_cast<const peft::LoraConfig&>(adapters.config("dora")).use_dora);
  EXPECT_TRUE(peft::set_peft_model_state_dict(*model, weights, "dora")
                  .missing_keys.empty());
  auto biased = some_lora();
  biased.target_modules = {"up"};
  biased.lora_bias = true;
  weights = tensors_of(biased);
  peft::inject_adapter_in_model(
      peft::LoraConfig(), *model, "bias", {.state_dict = &weights});
  EXPECT_TRUE(peft::set_peft_model_state_dict(*model, weights, "bias")
                  .missing_keys.empty());
}

TEST(StateDictInjection, KnowsIA3AndAdaLora) {
  peft::IA3Config ia3;
  ia3.target_modules = {"up", "down"};
  ia3.feedforward_modules = {"down"};
  auto weights = tensors_of(ia3);
  TextModel model;
  peft::IA3Config none;
  none.feedforward_modules = std::vector<std::string>{};
  peft::inject_adapter_in_model(none, *model, "ia3", {.state_dict = &weights});
  EXPECT_TRUE(peft::set_peft_model_state_dict(*model, weights, "ia3")
                  .missing_keys.empty());
  peft::AdaLoraConfig adalora;
  adalora.init_r = 5;
  adalora.target_r = 2;
  adalora.total_step = 10;
  adalora.target_modules = {"up"};
  weights = tensors_of(adalora);
  adalora.target_modules = {};
  adalora.init_r = 12;
  peft::inject_adapter_in_model(
      adalora, *model, "ranks", {.state_dict = &weights});
  EXPECT_TRUE(peft::set_peft_model_state_dict(*model, weights, "ranks")
                  .missing_keys.empty());
}

TEST(StateDictInjection, NamesEndingAlikeAreKeptApart) {
  struct Twice : nn::Module {
    Twice() {
      register_module("fc", nn::Linear(3, 3));
      register_module("inner", std::make_shared<nn::Module>())
          ->register_module("fc", nn::Linear(3, 3));
    }
  };
  peft::StateDict weights;
  weights.insert("fc.lora_A.weight", torch::zeros({2, 3}));
  weights.insert("fc.lora_B.weight", torch::zeros({3, 2}));
  Twice model;
  auto adapters = peft::inject_adapter_in_model(
      peft::LoraConfig(), model, "default", {.state_dict = &weights});
  EXPECT_THAT(adapters.report().adapted(), ElementsAre("fc"));
}

TEST(StateDictInjection, SaysWhatIsWrong) {
  TextModel model;
  peft::StateDict weights;
  weights.insert("encoder.q.lora_A.weight", torch::zeros({2, 3}));
  EXPECT_THAT(
      message_of([&] {
        peft::inject_adapter_in_model(
            peft::LoraConfig(), *model, "default", {.state_dict = &weights});
      }),
      HasSubstr("such as 'encoder.q.lora_A.weight'"));
  weights = tensors_of(some_lora());
  weights.insert("blocks.9.up.lora_A.weight", torch::zeros({3, 6}));
  weights.insert(
      "embedding.token_adapter.trainable_tokens_delta", torch::zeros({1, 6}));
  peft::LoraConfig config;
  config.target_modules = {"head"};
  const CollectWarnings warnings;
  peft::inject_adapter_in_model(
      config, *model, "default", {.state_dict = &weights});
  EXPECT_THAT(warnings.all(), HasSubstr("tensors for 'blocks.9.up'"));
  EXPECT_THAT(warnings.all(), HasSubstr("target_modules chooses 'head'"));
  EXPECT_THAT(warnings.all(), HasSubstr("trainable_tokens_delta'"));
}

class EmptyInjection : public testing::TestWithParam<const char*> {};

TEST_P(EmptyInjection, IsFilledWhenWeightsArrive) {
  auto config = some_lora();
  config.init_lora_weights = GetParam();
  TextModel trained;
  auto source = peft::inject_adapter_in_model(config, *trained);
  randomise(source.trainable_parameters());
  TextModel model;
  peft::copy_into(*trained, *model);
  peft::adapters_of(*model).unload();
  const auto y = trained->forward(text_ids());
  const auto weights = peft::get_peft_model_state_dict(*trained);

  auto adapters = peft::inject_adapter_in_model(
      config, *model, "default", {.low_cpu_mem_usage = true});
  const auto empty = adapters.parameters("default");
  for (const auto& tensor : empty) {
    EXPECT_TRUE(tensor.is_meta());
  }
  torch::optim::SGD optimizer(adapters.trainable_parameters(), 0.1);
  EXPECT_THAT(
      message_of([&] { model->forward(text_ids()); }),
      HasSubstr("has no weights yet"));
  adapters.enable_adapters(false);
  model->forward(text_ids());
  adapters.enable_adapters(true);
  EXPECT_TRUE(
      peft::set_peft_model_state_dict(*model, weights).missing_keys.empty());
  const auto filled = adapters.parameters("default");
  for (std::size_t i = 0; i < filled.size(); ++i) {
    EXPECT_TRUE(filled[i].is_same(empty[i]));
    EXPECT_FALSE(filled[i].is_meta());
    EXPECT_FALSE(filled[i].is_alias_of(weights[i].value()));
  }
  EXPECT_TRUE(torch::allclose(model->forward(text_ids()), y, 1e-5, 1e-6));
  // The optimiser made before still trains it.
  model->forward(text_ids()).square().sum().backward();
  optimizer.step();
  EXPECT_FALSE(torch::allclose(model->forward(text_ids()), y, 1e-5, 1e-6));
  for (const auto& tensor : model->parameters()) {
    EXPECT_FALSE(tensor.is_meta());
  }
  for (const auto& tensor : model->buffers()) {
    EXPECT_FALSE(tensor.is_meta());
  }
}
INSTANTIATE_TEST_SUITE_P(
    ByStart,
    EmptyInjection,
    testing::Values("gaussian", "olora", "pissa"));

TEST(EmptyInjection, IsNotSavedOrCopied) {
  const TempFolder folder;
  TextModel model;
  peft::inject_adapter_in_model(
      some_lora(), *model, "empty", {.low_cpu_mem_usage = true});
  for (const auto& call : std::vector<std::function<void()>>{
           [&] { peft::save_pretrained(*model, folder.path() / "saved"); },
           [&] { peft::clone(model); }}) {
    EXPECT_THAT(message_of(call), HasSubstr("'empty' was injected empty"));
  }
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "saved"));
}

TEST(EmptyInjection, StaysEmptyWhereWeightsAreMissing) {
  auto weights = tensors_of(some_lora());
  weights.erase("blocks.0.up.lora_B.weight");
  TextModel model;
  auto adapters = peft::inject_adapter_in_model(
      some_lora(), *model, "default", {.low_cpu_mem_usage = true});
  EXPECT_THAT(
      peft::set_peft_model_state_dict(*model, weights).missing_keys,
      ElementsAre("blocks.0.up.lora_B.weight"));
  EXPECT_THAT(
      message_of([&] { model->forward(text_ids()); }),
      HasSubstr("has no weights yet"));
}

}  // namespace
}  // namespace peft_test
