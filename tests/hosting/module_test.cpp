// SPDX-License-Identifier: Apache-2.0
// Adapted modules go on being modules: containers, printing, to(), train(),
// archives, cloning, shared modules and tied tensors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <sstream>

#include "hosting/adapted_weight.h"
#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using testing::HasSubstr;
using torch::Tensor;

peft::LoraConfig config_for(peft::ModuleChoice targets, double dropout = 0) {
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.lora_dropout = dropout;
  config.target_modules = std::move(targets);
  return config;
}

TEST(Module, PrintsItsAdaptersAsPeftDoes) {
  TextModel model;
  peft::inject_adapter_in_model(
      config_for({"blocks.0.up", "embedding"}, 0.1), *model);
  std::ostringstream text;
  text << *model;
  EXPECT_THAT(
      text.str(),
      HasSubstr("(lora_dropout): torch::nn::ModuleDict(\n"
                "          (default): torch::nn::Dropout("
                "p=0.1, inplace=false)"));
  EXPECT_THAT(
      text.str(),
      HasSubstr("(default): torch::nn::Linear(in_features=6, out_features=2, "
                "bias=false)"));
  EXPECT_THAT(
      text.str(),
      HasSubstr("(default): torch::nn::Linear(in_features=2, out_features=5, "
                "bias=false)"));
  EXPECT_THAT(text.str(), HasSubstr("lora_embedding_A"));
  const auto named = model->named_parameters();
  EXPECT_TRUE(named.contains("blocks.0.up.lora_A.default.weight"));
  EXPECT_TRUE(named.contains("embedding.lora_embedding_B.default"));
  EXPECT_TRUE(named.contains("blocks.0.up.weight"));
}

TEST(Module, GoesWithItsAdapters) {
  std::weak_ptr<peft::detail::ModelState> state;
  {
    torch::nn::Sequential model(torch::nn::Linear(4, 3));
    peft::LoraConfig config;
    config.target_modules = {"0"};
    state = peft::inject_adapter_in_model(config, *model).state();
    model->forward(torch::ones({2, 4})).sum().backward();
    EXPECT_FALSE(state.expired());  // its layers hold it
  }
  EXPECT_TRUE(state.expired());
}

TEST(Module, DropoutFollowsTrainAndEval) {
  torch::manual_seed(0);
  TextModel model;
  model->eval();
  auto adapters =
      peft::inject_adapter_in_model(config_for("all-linear", 0.5), *model);
  randomise(adapters.parameters("default"));
  const auto ids = text_ids();
  const Tensor eval = model->forward(ids);
  EXPECT_TRUE(torch::equal(model->forward(ids), eval));
  model->train();
  EXPECT_FALSE(torch::equal(model->forward(ids), model->forward(ids)));
  model->eval();
  EXPECT_TRUE(torch::equal(model->forward(ids), eval));
}

TEST(Module, DropoutHasItsMean) {
  torch::manual_seed(0);
  nn::Sequential model(nn::Linear(nn::LinearOptions(64, 8).bias(false)));
  auto adapters =
      peft::inject_adapter_in_model(config_for({"0"}, 0.25), *model);
  randomise(adapters.parameters("default"));
  const Tensor x = torch::randn({1, 64}).expand({20000, 64});
  const Tensor mean = model->forward(x).mean(0);
  model->eval();
  EXPECT_TRUE(torch::allclose(mean, model->forward(x)[0], 0.05, 0.05));
}

TEST(Module, TrainsAndFreezesOnlyWhatTheCallSays) {
  TextModel model;
  model->named_parameters()["norm.weight"].set_requires_grad(false);
  auto adapters = peft::inject_adapter_in_model(config_for({"up"}), *model);
  for (const auto& p : model->named_parameters()) {
    EXPECT_EQ(
        p.value().requires_grad(), p.key().find("lora") != std::string::npos)
        << p.key();
  }
  model->named_parameters()["head.bias"].set_requires_grad(true);
  peft::inject_adapter_in_model(config_for({"down"}), *model, "other");
  EXPECT_TRUE(model->named_parameters()["head.bias"].requires_grad());
  for (const char* name : {"default", "other"}) {
    for (const auto& p : adapters.parameters(name)) {
      EXPECT_TRUE(p.requires_grad());
    }
  }
  adapters.set_adapter("default");
  for (const auto& p : adapters.parameters("other")) {
    EXPECT_TRUE(p.requires_grad());
  }
  adapters.unload();
  for (const auto& p : model->named_parameters()) {
    EXPECT_EQ(p.value().requires_grad(), p.key() != "norm.weight");
  }
}

TEST(Module, LearnsWithAnOptimiser) {
  torch::manual_seed(0);
  TextModel model;
  auto adapters =
      peft::inject_adapter_in_model(config_for("all-linear", 0.1), *model);
  torch::optim::AdamW optimizer(
      adapters.trainable_parameters(), torch::optim::AdamWOptions(0.05));
  const auto head = model->named_parameters()["head.weight"].clone();
  const auto labels = torch::tensor({{0, 1, 2}, {2, 1, 0}}, torch::kLong);
  const auto loss = [&] {
    return nn::functional::cross_entropy(
        model->forward(text_ids()).flatten(0, 1), labels.flatten());
  };
  const double first = loss().item<double>();
  for (int step = 0; step < 60; ++step) {
    optimizer.zero_grad();
    loss().backward();
    optimizer.step();
  }
  model->eval();
  EXPECT_LT(loss().item<double>(), 0.3 * first);
  EXPECT_TRUE(torch::equal(model->named_parameters()["head.weight"], head));
}

TEST(Module, ArchivesRoundTrip) {
  torch::manual_seed(0);
  TextModel model;
  auto adapters =
      peft::inject_adapter_in_model(config_for("all-linear"), *model);
  randomise(adapters.parameters("default"));
  std::stringstream archive;
  torch::save(model, archive);
  TextModel other;
  peft::inject_adapter_in_model(config_for("all-linear"), *other);
  torch::load(other, archive);
  EXPECT_TRUE(
      torch::equal(other->forward(text_ids()), model->forward(text_ids())));
}

TEST(Module, ChangesDtypeBothWays) {
  torch::manual_seed(0);
  TextModel model;
  auto adapters = peft::inject_adapter_in_model(
      config_for({"up", "down", "head", "embedding"}), *model);
  randomise(adapters.parameters("default"));
  const Tensor y = model->forward(text_ids());
  model->to(torch::kFloat64);
  EXPECT_EQ(model->forward(text_ids()).scalar_type(), torch::kFloat64);
  EXPECT_TRUE(torch::allclose(
      model->forward(text_ids()).to(torch::kFloat32), y, 1e-4, 1e-5));
  model->to(torch::kCPU, torch::kFloat32);
  EXPECT_TRUE(torch::allclose(model->forward(text_ids()), y, 1e-4, 1e-5));
}

TEST(Module, ZeroGradReachesAdapters) {
  TextModel model;
  auto adapters = peft::inject_adapter_in_model(config_for({"head"}), *model);
  model->forward(text_ids()).sum().backward();
  EXPECT_TRUE(adapters.trainable_parameters()[1].grad().defined());
  model->zero_grad();
  EXPECT_FALSE(adapters.trainable_parameters()[1].grad().defined());
}

TEST(Clone, LibtorchsOwnRefuses) {
  TextModel model;
  peft::inject_adapter_in_model(config_for({"head"}), *model);
  EXPECT_ANY_THROW(model->clone());
  auto config = config_for({"blocks.0.up"});
  config.modules_to_save = {"norm"};
  TextModel other;
  peft::inject_adapter_in_model(config, *other);
  EXPECT_ANY_THROW(other->clone());
}

TEST(Clone, CopiesModelAndAdapters) {
  torch::manual_seed(0);
  TextModel model;
  auto config = config_for({"up", "embedding"});
  config.modules_to_save = {"head"};
  auto adapters = peft::inject_adapter_in_model(config, *model, "a");
  peft::inject_adapter_in_model(config_for({"up", "down"}), *model, "b");
  randomise(adapters.parameters("a"));
  randomise(adapters.parameters("b"));
  adapters.set_adapter(std::vector<std::string>{"a", "b"});
  adapters.set_scale("b", 0.5);
  adapters.set_requires_grad("a", false);
  const Tensor y = model->forward(text_ids());

  TextModel copy = peft::clone(model);
  auto copied = peft::adapters_of(*copy);
  EXPECT_EQ(copied.names(), adapters.names());
  EXPECT_EQ(copied.active_adapters(), adapters.active_adapters());
  EXPECT_TRUE(torch::equal(copy->forward(text_ids()), y));
  EXPECT_TRUE(torch::equal(model->forward(text_ids()), y));
  EXPECT_FALSE(copied.parameters("a")[0].requires_grad());
  EXPECT_TRUE(copied.parameters("b")[0].requires_grad());
  randomise(copied.parameters("a"));
  EXPECT_TRUE(torch::equal(model->forward(text_ids()), y));
  EXPECT_FALSE(torch::equal(copy->forward(text_ids()), y));
}

TEST(Clone, CopiesIntoModelsThatCannotBeCloned) {
  struct Plain : nn::Module {
    Plain() : layer(register_module("layer", nn::Linear(3, 2))) {}
    nn::Linear layer;
  };
  torch::manual_seed(0);
  Plain model;
  auto adapters = peft::inject_adapter_in_model(config_for({"layer"}), model);
  randomise(adapters.parameters("default"));
  Plain copy;
  peft::copy_into(model, copy);
  const Tensor x = torch::randn({2, 3});
  EXPECT_TRUE(torch::equal(copy.layer(x), model.layer(x)));
  nn::Sequential other(nn::Linear(3, 2));
  EXPECT_THROW(peft::copy_into(model, *other), peft::Error);
}

TEST(Shared, AModuleUnderTwoNamesIsAdaptedAtBoth) {
  struct Twice : nn::Module {
    Twice() : a(register_module("a", nn::Linear(3, 3))) {
      b = register_module("b", a);
    }
    Tensor forward(const Tensor& x) { return b(a(x)); }
    nn::Linear a, b{nullptr};
  };
  torch::manual_seed(0);
  Twice model;
  auto adapters = peft::inject_adapter_in_model(config_for({"b"}), model);
  randomise(adapters.parameters("default"));
  EXPECT_EQ(adapters.parameters("default").size(), 2);
  EXPECT_TRUE(peft::is_adapted(model.a->weight));
  EXPECT_TRUE(peft::is_adapted(model.b->weight));
}

TEST(Shared, ATiedTensorIsAdaptedWhereTargetedAndSaidSo) {
  struct Tied : nn::Module {
    Tied()
        : embed(register_module("embed", nn::Embedding(5, 3))),
          head(register_module("head", nn::Linear(3, 5))) {
      head->weight = embed->weight;
    }
    nn::Embedding embed;
    nn::Linear head;
  };
  CollectWarnings warnings;
  Tied model;
  peft::inject_adapter_in_model(config_for({"embed"}), model);
  EXPECT_TRUE(peft::is_adapted(model.embed->weight));
  EXPECT_FALSE(peft::is_adapted(model.head->weight));
  EXPECT_THAT(warnings.all(), HasSubstr("same tensor as 'head.weight'"));
}

struct ExpertsImpl : nn::Module {
  ExpertsImpl() {
    w1 = register_parameter("w1", torch::randn({3, 4, 5}) * 0.3);
    w2 = register_parameter("w2", torch::randn({6, 4}) * 0.3);
    conv = register_parameter("conv", torch::randn({4, 2, 3}) * 0.3);
  }
  Tensor forward(const Tensor& x) {
    return torch::einsum("ni,eoi->neo", {x, w1}).sum(1).mm(w2.t());
  }
  Tensor w1, w2, conv;
};
TORCH_MODULE(Experts);

class UserKind : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    peft::register_layer<ExpertsImpl>(
        {{"w1", &ExpertsImpl::w1},
         {"w2", &ExpertsImpl::w2},
         {"conv",
          &ExpertsImpl::conv,
          peft::WeightUse::convolution,
          [](const ExpertsImpl&) { return 2; }}});
  }
  struct Root : nn::Module {
    Root() : experts(register_module("experts", Experts())) {}
    Experts experts;
  };
};

TEST_F(UserKind, IsTargetedAsAWhole) {
  torch::manual_seed(0);
  Root model;
  auto adapters = peft::inject_adapter_in_model(config_for({"experts"}), model);
  randomise(adapters.parameters("default"));
  const auto state = peft::get_peft_model_state_dict(model);
  EXPECT_EQ(state.size(), 6);
  const auto factors = adapters.trainable_parameters();
  const Tensor x = torch::randn({2, 5});
  model.experts(x).sum().backward();
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_GT(factors[i].grad().abs().sum().item<float>(), 0);
  }
  adapters.unload();
  EXPECT_TRUE(model.experts->children().empty());
}

TEST_F(UserKind, ItsParametersAreTargetsByName) {
  torch::manual_seed(0);
  Root model;
  auto adapters = peft::inject_adapter_in_model(config_for({"w2"}), model);
  EXPECT_TRUE(peft::is_adapted(model.experts->w2));
  EXPECT_FALSE(peft::is_adapted(model.experts->w1));
  EXPECT_EQ(
      peft::get_peft_model_state_dict(model).keys(),
      (std::vector<std::string>{
          "experts.lora_A.weight", "experts.lora_B.weight"}));
}

TEST_F(UserKind, TargetParametersHavePeftsNestedKeys) {
  torch::manual_seed(0);
  Root model;
  peft::LoraConfig config;
  config.r = 2;
  config.target_parameters = {"experts.w1", "w2"};
  auto adapters = peft::inject_adapter_in_model(config, model);
  const auto state = peft::get_peft_model_state_dict(model);
  EXPECT_EQ(
      state["experts.base_layer.lora_A.weight"].sizes(),
      (at::IntArrayRef{6, 5}));
  EXPECT_EQ(state["experts.lora_A.weight"].sizes(), (at::IntArrayRef{2, 4}));
}

TEST_F(UserKind, PatternsSpeakOfParametersByTheirOwnPath) {
  CollectWarnings warnings;
  Root model;
  peft::LoraConfig config;
  config.r = 2;
  config.target_parameters = {"w1", "w2"};
  config.rank_pattern = {{"experts.w2", 3}};
  config.alpha_pattern = {{"w1", 32}};
  auto adapters = peft::inject_adapter_in_model(config, model);
  EXPECT_EQ(warnings.all(), "");
  const auto scaling = adapters.scaling("default");
  EXPECT_DOUBLE_EQ(scaling.at("experts.base_layer"), 32.0 / 2);
  EXPECT_DOUBLE_EQ(scaling.at("experts"), 8.0 / 3);
}

TEST(GroupedConvolution, RunsOnItsFactorsAsInPeft) {
  torch::manual_seed(0);
  nn::Sequential model(
      nn::Conv2d(nn::Conv2dOptions(4, 6, 3).groups(2).padding(1)));
  const Tensor x = torch::randn({2, 4, 5, 5});
  const Tensor before = model->forward(x);
  auto adapters = peft::inject_adapter_in_model(config_for({"0"}), *model);
  randomise(adapters.parameters("default"));
  const auto f = adapters.parameters("default");
  EXPECT_EQ(f[0].sizes(), (at::IntArrayRef{2, 4, 3, 3}));
  EXPECT_EQ(f[1].sizes(), (at::IntArrayRef{6, 1, 1, 1}));
  const Tensor expected = before +
      1.5 *
          torch::conv2d(
              torch::conv2d(x, f[0], Tensor(), 1, 1),
              f[1],
              Tensor(),
              /*stride=*/at::IntArrayRef{1},
              at::IntArrayRef{0},
              at::IntArrayRef{1},
              /*groups=*/2);
  EXPECT_TRUE(torch::allclose(model->forward(x), expected, 1e-4, 1e-5));
  const auto weight = model->named_children()["0"]->as<nn::Conv2d>()->weight;
  EXPECT_THROW(peft::effective_weight(weight), peft::Error);
}

TEST(AnyModuleTest, IsAdaptedInPlace) {
  torch::manual_seed(0);
  nn::Linear linear(3, 3);
  nn::AnyModule any(linear);
  nn::Sequential model;
  model->push_back("any", any);
  auto adapters = peft::inject_adapter_in_model(config_for({"any"}), *model);
  randomise(adapters.parameters("default"));
  const Tensor x = torch::randn({2, 3});
  EXPECT_FALSE(torch::allclose(
      any.forward(x),
      nn::functional::linear(
          x, peft::base_weight(linear->weight), linear->bias)));
}

}  // namespace
}  // namespace peft_test
