// SPDX-License-Identifier: Apache-2.0
// Operating several adapters: the active set, deleting, modules_to_save,
// biases, scales, status.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <atomic>
#include <thread>

#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/error_of.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using peft::ErrorKind;
using testing::HasSubstr;
using torch::Tensor;
using Names = std::vector<std::string>;

peft::LoraConfig config_for(peft::ModuleChoice targets) {
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.target_modules = std::move(targets);
  return config;
}

class TwoAdapters : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(0);
    base_ = model_->forward(text_ids());
    adapters_ = std::make_unique<peft::Adapters>(
        peft::inject_adapter_in_model(config_for({"up"}), *model_, "a"));
    peft::inject_adapter_in_model(config_for({"down", "head"}), *model_, "b");
    randomise(adapters_->parameters("a"));
    randomise(adapters_->parameters("b"));
  }
  Tensor forward() { return model_->forward(text_ids()); }

  TextModel model_;
  Tensor base_;
  std::unique_ptr<peft::Adapters> adapters_;
};

TEST_F(TwoAdapters, TheNewOneIsActive) {
  EXPECT_EQ(adapters_->active_adapters(), Names{"b"});
  const Tensor b = forward();
  adapters_->set_adapter("a");
  const Tensor a = forward();
  EXPECT_FALSE(torch::allclose(a, b));
  peft::set_adapter(*model_, {"a", "b"});
  EXPECT_EQ(adapters_->active_adapters(), (Names{"a", "b"}));
  adapters_->set_adapter({"a", "b"});
  EXPECT_EQ(adapters_->active_adapters(), (Names{"a", "b"}));
  peft::enable_adapters(*model_, false);
  EXPECT_TRUE(torch::equal(forward(), base_));
  EXPECT_FALSE(adapters_->enabled());
  peft::set_adapter(*model_, "b");
  EXPECT_TRUE(torch::equal(forward(), base_));
  peft::enable_adapters(*model_, true);
  EXPECT_TRUE(torch::equal(forward(), b));
}

TEST_F(TwoAdapters, AScopeThatAnotherThreadEndsCountsNoMore) {
  const Tensor b = forward();
  auto scope = std::make_unique<peft::UseAdapter>(*adapters_, "a");
  const Tensor a = forward();
  std::thread([&] { scope.reset(); }).join();
  EXPECT_TRUE(torch::equal(forward(), b));
  const peft::UseAdapter next(*adapters_, "a");
  EXPECT_TRUE(torch::equal(forward(), a));
}

TEST_F(TwoAdapters, UnknownNamesChangeNothing) {
  const auto text = error_of(
      ErrorKind::state, [&] { adapters_->set_adapter(Names{"a", "x", "y"}); });
  EXPECT_THAT(
      text,
      testing::AllOf(
          HasSubstr("'x'"), HasSubstr("'y'"), HasSubstr("'a', 'b'")));
  EXPECT_EQ(adapters_->active_adapters(), Names{"b"});
  for (const auto& asked :
       {std::function([&] { adapters_->set_adapter({"a", "b", "a"}); }),
        std::function([&] { adapters_->merge_adapter({"a", "a"}); }),
        std::function([&] { adapters_->merge_and_unload({"a", "a"}); }),
        std::function(
            [&] { (void)peft::UseAdapter(*adapters_, {"a", "a"}); })}) {
    EXPECT_THAT(
        error_of(ErrorKind::state, asked), HasSubstr("'a' is named twice"));
  }
  error_of(ErrorKind::state, [&] { adapters_->set_adapter(Names{}); });
  error_of(ErrorKind::state, [&] { adapters_->delete_adapter("x"); });
  error_of(ErrorKind::state, [&] { adapters_->set_scale("x", 1); });
  error_of(
      ErrorKind::state, [&] { peft::get_peft_model_state_dict(*model_, "x"); });
  error_of(ErrorKind::state, [&] {
    peft::set_requires_grad(*model_, {"a", "x"}, false);
  });
  EXPECT_TRUE(adapters_->parameters("a")[0].requires_grad());
}

TEST_F(TwoAdapters, DeletingTheActiveOneActivatesTheNext) {
  CollectWarnings warnings;
  adapters_->set_adapter("a");
  const Tensor a = forward();
  adapters_->set_adapter("b");
  peft::delete_adapter(*model_, "b");
  EXPECT_THAT(warnings.all(), HasSubstr("'a' is active now"));
  EXPECT_TRUE(torch::equal(forward(), a));
  EXPECT_TRUE(model_->named_children()["head"]->children().empty());
  EXPECT_FALSE(
      model_->named_parameters().contains("blocks.0.down.lora_A.b.weight"));
  peft::delete_adapter(*model_, "a");
  EXPECT_TRUE(torch::equal(forward(), base_));
  EXPECT_TRUE(model_->named_parameters()["head.weight"].requires_grad());
  error_of(ErrorKind::state, [&] { peft::adapters_of(*model_); });
  peft::inject_adapter_in_model(config_for({"up"}), *model_, "a");
}

TEST_F(TwoAdapters, ScalesFollowTheActiveSet) {
  adapters_->set_scale("a", 3);
  EXPECT_DOUBLE_EQ(adapters_->scaling("a").at("blocks.0.up"), 4.5);
  adapters_->scale_layer(2);  // b is active
  EXPECT_DOUBLE_EQ(adapters_->scaling("b").at("head"), 3);
  EXPECT_DOUBLE_EQ(adapters_->scaling("a").at("blocks.0.up"), 4.5);
  adapters_->unscale_layer(4);
  EXPECT_DOUBLE_EQ(adapters_->scaling("b").at("head"), 0.75);
  adapters_->unscale_layer();
  EXPECT_DOUBLE_EQ(adapters_->scaling("b").at("head"), 1.5);
  error_of(ErrorKind::config, [&] { adapters_->unscale_layer(0); });
}

TEST_F(TwoAdapters, StatusTellsWhatStandsWhere) {
  adapters_->set_requires_grad("a", false);
  const auto status = peft::get_model_status(*model_);
  EXPECT_EQ(status.available_adapters, (Names{"a", "b"}));
  EXPECT_EQ(status.active_adapters, Names{"b"});
  EXPECT_EQ(status.requires_grad.at("a"), "false");
  EXPECT_EQ(status.requires_grad.at("b"), "true");
  EXPECT_EQ(status.adapter_layers, 5);
  EXPECT_EQ(status.peft_types.at("a"), "LORA");
  std::int64_t all = 0;
  std::int64_t trainable = 0;
  for (const auto& p : model_->parameters()) {
    all += p.numel();
    trainable += p.requires_grad() ? p.numel() : 0;
  }
  EXPECT_EQ(status.total_parameters, all);
  EXPECT_EQ(status.trainable_parameters, trainable);
  adapters_->parameters("b")[0].set_requires_grad(false);
  EXPECT_EQ(peft::get_model_status(*model_).requires_grad.at("b"), "irregular");
  const auto layers = peft::get_layer_status(*model_);
  EXPECT_EQ(layers.size(), 5);
  EXPECT_EQ(layers[0].module_type, "Linear");
}

TEST_F(TwoAdapters, NamesAreDataNotPatterns) {
  peft::inject_adapter_in_model(config_for({"up", "head"}), *model_, "weight");
  peft::inject_adapter_in_model(config_for({"up", "head"}), *model_, "0");
  peft::inject_adapter_in_model(config_for({"up", "head"}), *model_, "lora_A");
  for (const char* name : {"weight", "0", "lora_A"}) {
    EXPECT_EQ(peft::get_peft_model_state_dict(*model_, name).size(), 6);
  }
  EXPECT_EQ(peft::get_peft_model_state_dict(*model_, "a").size(), 4);
}

TEST(SavedModules, AreTrainedAndSwitchedWithTheirAdapter) {
  torch::manual_seed(0);
  TextModel model;
  const Tensor base = model->forward(text_ids());
  auto config = config_for({"up"});
  config.modules_to_save = {"head", "norm"};
  auto adapters = peft::inject_adapter_in_model(config, *model, "a");
  EXPECT_TRUE(torch::equal(model->forward(text_ids()), base));
  const auto state = peft::get_peft_model_state_dict(*model, "a");
  EXPECT_TRUE(state.contains("head.weight"));
  EXPECT_TRUE(state.contains("norm.bias"));
  EXPECT_TRUE(
      model->named_parameters().contains("head.modules_to_save.a.weight"));
  model->forward(text_ids()).sum().backward();
  EXPECT_TRUE(state["head.weight"].grad().defined());
  randomise(adapters.parameters("a"));
  const Tensor a = model->forward(text_ids());
  EXPECT_FALSE(torch::allclose(a, base));

  config.modules_to_save = {"head"};
  peft::inject_adapter_in_model(config, *model, "b");
  EXPECT_TRUE(torch::equal(model->forward(text_ids()), base));
  adapters.set_adapter("a");
  EXPECT_TRUE(torch::equal(model->forward(text_ids()), a));
  EXPECT_THAT(
      error_of(
          ErrorKind::state, [&] { adapters.set_adapter(Names{"a", "b"}); }),
      HasSubstr("head"));
  adapters.enable_adapters(false);
  EXPECT_TRUE(torch::equal(model->forward(text_ids()), base));
  adapters.unload();
  EXPECT_TRUE(torch::equal(model->forward(text_ids()), base));
  EXPECT_TRUE(model->named_children()["head"]->children().empty());
}

TEST(SavedModules, HoldRunningStatisticsOfTheirOwn) {
  torch::manual_seed(0);
  nn::Sequential model(nn::Linear(4, 3), nn::BatchNorm1d(3), nn::Linear(3, 2));
  auto config = config_for({"0"});
  config.modules_to_save = {"1", "2"};
  auto adapters = peft::inject_adapter_in_model(config, *model);
  const auto mean = model->named_buffers()["1.running_mean"];
  const Tensor before = mean.clone();
  model->forward(torch::randn({8, 4}));
  EXPECT_TRUE(torch::equal(mean, before));
  const auto state = peft::get_peft_model_state_dict(*model);
  EXPECT_FALSE(torch::equal(state["1.running_mean"], before));
  EXPECT_EQ(state["1.num_batches_tracked"].item<int64_t>(), 1);
  EXPECT_TRUE(state.contains("2.weight"));
  for (const auto& p : adapters.trainable_parameters()) {
    EXPECT_TRUE(p.is_floating_point());
  }
  adapters.enable_adapters(false);
  model->forward(torch::randn({8, 4}));
  EXPECT_FALSE(torch::equal(mean, before));
}

TEST(Biases, AreTrainedWhereTheConfigSays) {
  TextModel model;
  auto config = config_for({"up"});
  config.bias = "lora_only";
  auto adapters = peft::inject_adapter_in_model(config, *model, "a");
  auto state = peft::get_peft_model_state_dict(*model, "a");
  EXPECT_TRUE(state["blocks.0.up.base_layer.bias"].requires_grad());
  EXPECT_EQ(state.size(), 6);
  EXPECT_EQ(adapters.trainable_parameters().size(), 6);
  adapters.unload();
  config.bias = "all";
  config.modules_to_save = {"norm"};
  adapters = peft::inject_adapter_in_model(config, *model, "a");
  state = peft::get_peft_model_state_dict(*model, "a");
  EXPECT_TRUE(state.contains("head.bias"));
  EXPECT_TRUE(state.contains("norm.bias"));
  EXPECT_FALSE(model->named_parameters()["norm.bias"].requires_grad());
  adapters.delete_adapter("a");
  EXPECT_TRUE(model->named_parameters()["head.bias"].requires_grad());
}

TEST(Biases, AreTheAdaptersOwn) {
  CollectWarnings warnings;
  TextModel model;
  const auto ids = text_ids();
  const Tensor base = model(ids);
  auto config = config_for({"up"});
  config.bias = "all";
  const Tensor bias = model->named_parameters()["head.bias"];
  const Tensor before = bias.detach().clone();
  auto adapters = peft::inject_adapter_in_model(config, *model, "a");
  EXPECT_TRUE(torch::equal(model(ids), base));
  randomise(adapters.parameters("a"));
  peft::inject_adapter_in_model(config, *model, "b");
  EXPECT_TRUE(torch::equal(model(ids), base));
  randomise(adapters.parameters("b"));
  const Tensor of_b = model(ids);
  adapters.set_adapter("a");
  const Tensor of_a = model(ids);
  EXPECT_FALSE(torch::allclose(of_a, of_b));
  EXPECT_TRUE(torch::equal(bias, before));
  // The layer's own equation with a's bias in it.
  auto state = peft::get_peft_model_state_dict(*model, "a");
  const Tensor own = state["head.bias"].detach().clone();
  {
    const torch::NoGradGuard no_grad;
    state["head.bias"].add_(1);
    EXPECT_TRUE(torch::allclose(model(ids), of_a + 1, 1e-5, 1e-5));
    state["head.bias"].copy_(own);
  }
  model(ids).sum().backward();
  EXPECT_TRUE(state["head.bias"].grad().defined());
  EXPECT_FALSE(bias.grad().defined());
  adapters.enable_adapters(false);
  EXPECT_TRUE(torch::equal(model(ids), base));
  adapters.enable_adapters(true);
  {
    const peft::UseAdapter scope(adapters, "b");
    EXPECT_TRUE(torch::equal(model(ids), of_b));
  }
  {
    const peft::BatchAdapters scope(adapters, {"b", "__base__"});
    EXPECT_THAT(
        error_of(ErrorKind::unsupported, [&] { model(ids); }),
        HasSubstr("norm"));
  }
  EXPECT_EQ(warnings.all(), "");
  EXPECT_THAT(
      error_of(ErrorKind::state, [&] { adapters.set_adapter({"a", "b"}); }),
      AllOf(HasSubstr("bias"), HasSubstr("only one")));
  adapters.unload();
  EXPECT_TRUE(torch::equal(bias, before));
  EXPECT_TRUE(bias.requires_grad());
  EXPECT_TRUE(torch::equal(model(ids), base));
}

TEST(Biases, MergeBesideLoraBias) {
  TextModel model;
  const auto ids = text_ids();
  auto config = config_for({"up"});
  config.bias = "lora_only";
  config.lora_bias = true;
  auto adapters = peft::inject_adapter_in_model(config, *model);
  randomise(adapters.parameters("default"));
  const Tensor adapted = model(ids);
  auto state = peft::get_peft_model_state_dict(*model);
  // alpha / r = 1.5: the layer adds its trained bias and 1.5 of lora_B's.
  const Tensor sum = (state["blocks.0.up.base_layer.bias"] +
                      1.5 * state["blocks.0.up.lora_B.bias"])
                         .detach();
  adapters.merge_adapter();
  EXPECT_TRUE(torch::allclose(model(ids), adapted, 1e-5, 1e-6));
  adapters.merge_and_unload();
  EXPECT_TRUE(torch::allclose(
      model->named_parameters()["blocks.0.up.bias"], sum, 1e-5, 1e-6));
  EXPECT_TRUE(torch::allclose(model(ids), adapted, 1e-5, 1e-6));
}

TEST(SharedEncoder, TakesNoAdaptersThroughTwoModels) {
  const auto encoder = std::make_shared<torch::nn::SequentialImpl>(
      torch::nn::Linear(4, 4), torch::nn::Linear(4, 4));
  struct Task : torch::nn::Module {
    explicit Task(const std::shared_ptr<torch::nn::SequentialImpl>& shared) {
      register_module("encoder", shared);
      register_module("head", torch::nn::Linear(4, 2));
    }
  };
  Task first(encoder), second(encoder);
  peft::inject_adapter_in_model(config_for({"encoder.0"}), first, "a");
  for (const char* target : {"encoder.1", "head"}) {
    EXPECT_THAT(
        error_of(
            ErrorKind::state,
            [&] {
              peft::inject_adapter_in_model(config_for({target}), second, "b");
            }),
        AllOf(HasSubstr("'a'"), HasSubstr("share")));
  }
  EXPECT_THAT(
      error_of(
          ErrorKind::state,
          [&] {
            peft::inject_adapter_in_model(config_for({"1"}), *encoder, "b");
          }),
      HasSubstr("'a'"));
  peft::unload(first);
  // Through the shared module: both models run them, and a head of one model
  // may have its own.
  peft::inject_adapter_in_model(config_for({"0"}), *encoder, "a");
  EXPECT_NO_THROW(
      peft::inject_adapter_in_model(config_for({"head"}), second, "b"));
}

TEST(StateDict, TakesNothingOfWhatItCannotTakeWhole) {
  TextModel model;
  peft::inject_adapter_in_model(config_for({"head"}), *model);
  const auto state = peft::get_peft_model_state_dict(*model);
  const Tensor before = state["head.lora_A.weight"].detach().clone();
  peft::StateDict given;
  given.insert("head.lora_A.weight", torch::ones({2, 6}));
  given.insert("head.lora_B.weight", torch::zeros({3, 2}, torch::kMeta));
  EXPECT_THAT(
      error_of(
          ErrorKind::shape,
          [&] { peft::set_peft_model_state_dict(*model, given); }),
      HasSubstr("meta"));
  EXPECT_TRUE(torch::equal(state["head.lora_A.weight"], before));
  given["head.lora_B.weight"] = torch::ones({3, 2});
  given.insert("base_model.model.head.lora_A.weight", torch::ones({2, 6}));
  EXPECT_THAT(
      error_of(
          ErrorKind::shape,
          [&] { peft::set_peft_model_state_dict(*model, given); }),
      HasSubstr("twice"));
}

TEST(StateDict, ReportsAndRefusesWithoutChangingAnything) {
  TextModel model;
  auto adapters = peft::inject_adapter_in_model(config_for({"head"}), *model);
  const auto state = peft::get_peft_model_state_dict(*model);
  peft::StateDict given;
  given.insert("base_model.model.head.lora_A.weight", torch::ones({2, 6}));
  given.insert("tail.lora_A.weight", torch::ones({2, 6}));
  const auto report = peft::set_peft_model_state_dict(*model, given);
  EXPECT_EQ(report.missing_keys, Names{"head.lora_B.weight"});
  EXPECT_EQ(report.unexpected_keys, Names{"tail.lora_A.weight"});
  EXPECT_EQ(state["head.lora_A.weight"].min().item<float>(), 1);

  given["base_model.model.head.lora_A.weight"].fill_(2);
  given.insert("head.lora_B.weight", torch::ones({3, 4}));
  EXPECT_THAT(
      error_of(
          ErrorKind::shape,
          [&] { peft::set_peft_model_state_dict(*model, given); }),
      testing::AllOf(HasSubstr("[3, 4]"), HasSubstr("[3, 2]")));
  EXPECT_EQ(state["head.lora_A.weight"].max().item<float>(), 1);
  const auto loose =
      peft::set_peft_model_state_dict(*model, given, "default", true);
  EXPECT_EQ(loose.mismatched.size(), 1);
  EXPECT_EQ(state["head.lora_A.weight"].max().item<float>(), 2);
  given["head.lora_B.weight"] =
      torch::full({3, 2}, (1 << 24) + 1, torch::kLong);
  error_of(ErrorKind::shape, [&] {
    peft::set_peft_model_state_dict(*model, given);
  });
}

TEST(Threads, ForwardSeesOneChoiceWhileAnotherThreadSwitches) {
  torch::manual_seed(0);
  TextModel model;
  model->eval();
  auto adapters =
      peft::inject_adapter_in_model(config_for("all-linear"), *model, "a");
  peft::inject_adapter_in_model(config_for("all-linear"), *model, "b");
  randomise(adapters.parameters("a"));
  randomise(adapters.parameters("b"));
  const Tensor x = torch::randn({2, 6});
  const torch::NoGradGuard no_grad;
  const auto linear = model->named_children()["head"]->as<nn::Linear>();
  const Tensor b = linear->forward(x);
  adapters.set_adapter("a");
  const Tensor a = linear->forward(x);
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      const torch::NoGradGuard guard;
      while (!stop) {
        const Tensor y = linear->forward(x);
        wrong += !torch::equal(y, a) && !torch::equal(y, b);
      }
    });
  }
  for (int i = 0; i < 2000; ++i) {
    adapters.set_adapter(i % 2 == 0 ? "b" : "a");
  }
  stop = true;
  for (auto& reader : readers) {
    reader.join();
  }
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace peft_test
