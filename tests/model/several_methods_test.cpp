// SPDX-License-Identifier: Apache-2.0
// Adapters of different methods on one layer: they act in the order of
// injection, each is saved by itself. The oracle is plain arithmetic.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using testing::ElementsAre;
using testing::UnorderedElementsAre;
using torch::Tensor;
namespace nn = torch::nn;

class SeveralMethods : public testing::Test {
 protected:
  SeveralMethods() {
    model_->push_back("layer", layer_);
    w_ = layer_->weight;
    b_ = layer_->bias;
  }

  static peft::LoraConfig lora() {
    peft::LoraConfig config;
    config.r = 2;
    config.lora_alpha = 3;
    config.target_modules = {"layer"};
    return config;
  }
  static peft::IA3Config ia3() {
    peft::IA3Config config;
    config.target_modules = {"layer"};
    config.feedforward_modules = std::vector<std::string>();
    return config;
  }
  static peft::AdaLoraConfig adalora() {
    peft::AdaLoraConfig config;
    config.init_r = 3;
    config.target_r = 2;
    config.total_step = 5;
    config.target_modules = {"layer"};
    return config;
  }

  void inject(const peft::AdapterConfig& config, const std::string& name) {
    auto adapters = peft::inject_adapter_in_model(config, *model_, name);
    randomise(adapters.parameters(name));
  }

  std::vector<Tensor> tensors(const std::string& name) {
    return peft::adapters_of(*model_).parameters(name);
  }

  void expect_layer(const Tensor& w, const Tensor& b) {
    const Tensor x = torch::randn({3, 5});
    EXPECT_TRUE(torch::allclose(
        model_->forward(x), torch::linear(x, w, b), 1e-5, 1e-5));
    const Tensor x3 = torch::randn({2, 3, 5});
    EXPECT_TRUE(torch::allclose(
        model_->forward(x3), torch::linear(x3, w, b), 1e-5, 1e-5));
  }

  // The same base in a model of its own.
  nn::Sequential copy_of_base() const {
    nn::Linear layer(5, 4);
    const torch::NoGradGuard no_grad;
    layer->weight.copy_(w_);
    layer->bias.copy_(b_);
    nn::Sequential model;
    model->push_back("layer", layer);
    return model;
  }

  nn::Linear layer_{5, 4};
  nn::Sequential model_;
  Tensor w_, b_;
};

TEST_F(SeveralMethods, ActInTheOrderOfInjection) {
  inject(lora(), "a");
  inject(ia3(), "b");
  EXPECT_THAT(
      peft::adapters_of(*model_).active_adapters(), ElementsAre("a", "b"));
  const auto ab = tensors("a");
  const Tensor l = tensors("b")[0];
  expect_layer((w_ + 1.5 * ab[1].mm(ab[0])) * l, b_ * l.flatten());
  peft::unload(*model_);

  inject(ia3(), "b");
  inject(lora(), "a");
  const auto again = tensors("a");
  const Tensor k = tensors("b")[0];
  const Tensor w = w_ * k + 1.5 * again[1].mm(again[0]);
  expect_layer(w, b_ * k.flatten());
  // Asked for the other way round, they still stand as they were injected.
  peft::set_adapter(*model_, {"a", "b"});
  expect_layer(w, b_ * k.flatten());
}

TEST_F(SeveralMethods, AreSavedEachByItsOwnKeys) {
  inject(lora(), "default");
  inject(ia3(), "scale");
  inject(adalora(), "ranks");
  EXPECT_THAT(
      peft::get_peft_model_state_dict(*model_).keys(),
      UnorderedElementsAre("layer.lora_A.weight", "layer.lora_B.weight"));
  EXPECT_THAT(
      peft::get_peft_model_state_dict(*model_, "scale").keys(),
      UnorderedElementsAre("layer.ia3_l"));
  EXPECT_THAT(
      peft::get_peft_model_state_dict(*model_, "ranks").keys(),
      UnorderedElementsAre("layer.lora_A", "layer.lora_E", "layer.lora_B"));
  const TempFolder folder;
  peft::save_pretrained(*model_, folder / "out");
  const Tensor x = torch::randn({3, 5});

  auto other = copy_of_base();
  peft::load_adapter(*other, folder / "out");
  peft::load_adapter(*other, folder / "out" / "scale", "scale");
  peft::load_adapter(*other, folder / "out" / "ranks", "ranks");
  EXPECT_TRUE(torch::equal(other->forward(x), model_->forward(x)));
  peft::unload(*other);
  EXPECT_TRUE(other->named_children()["layer"]->children().empty());
}

TEST_F(SeveralMethods, OneOfEachKindIsReplacedByTheNext) {
  inject(lora(), "a");
  inject(ia3(), "b");
  inject(lora(), "c");
  EXPECT_THAT(
      peft::adapters_of(*model_).active_adapters(), ElementsAre("c", "b"));
}

TEST_F(SeveralMethods, TheBiasFollowsTheModelAndComesBack) {
  inject(ia3(), "b");
  EXPECT_TRUE(peft::is_adapted(layer_->bias));
  model_->to(torch::kFloat64);
  EXPECT_EQ(layer_->bias.scalar_type(), torch::kFloat64);
  const Tensor l = tensors("b")[0];
  const Tensor x = torch::randn({3, 5}, torch::kFloat64);
  EXPECT_TRUE(torch::allclose(
      model_->forward(x), torch::linear(x, w_ * l, b_ * l.flatten())));
  peft::unload(*model_);
  EXPECT_TRUE(layer_->bias.is_same(b_));
}

TEST_F(SeveralMethods, CopiesOfAModelKeepThem) {
  inject(ia3(), "scale");
  auto pissa = lora();
  pissa.init_lora_weights = "pissa";
  inject(pissa, "main");
  const Tensor x = torch::randn({3, 5});
  auto copy = copy_of_base();
  peft::copy_into(*model_, *copy);
  EXPECT_TRUE(torch::equal(copy->forward(x), model_->forward(x)));
}

}  // namespace
}  // namespace peft_test
