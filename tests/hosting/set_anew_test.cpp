// SPDX-License-Identifier: Apache-2.0
// Layers whose forward sets their weight anew, and their adaptation through the
// parameters that it is computed from. The oracle is autograd on V + s B A.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/error_of.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
namespace F = torch::nn::functional;
using testing::HasSubstr;
using torch::Tensor;

Tensor normed(const Tensor& v, const Tensor& g) {
  return g.unsqueeze(1) * v / v.norm(2, 1, true);
}

// Weight norm by hand.
struct NormedImpl : nn::Module {
  NormedImpl(int inputs, int outputs) : linear(inputs, outputs) {
    register_module("linear", linear);
    v = register_parameter("v", torch::randn({outputs, inputs}));
    g = register_parameter("g", torch::rand({outputs}) + 0.5);
  }
  Tensor forward(const Tensor& x) {
    linear->weight = normed(v, g);
    return linear(x);
  }
  nn::Linear linear;
  Tensor v, g;
};
TORCH_MODULE(Normed);

struct NormedPairImpl : nn::Module {
  NormedPairImpl() {
    register_module("first", first);
    register_module("second", second);
  }
  Tensor forward(const Tensor& x) { return second(first(x).tanh()); }
  Normed first{4, 5}, second{5, 3};
};
TORCH_MODULE(NormedPair);

peft::LoraConfig lora() {
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  return config;
}

class SetAnew : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(6);
    config_ = lora();
    config_.target_modules = {"linear"};
    peft::inject_adapter_in_model(config_, *model_);  // nobody keeps the handle
  }

  NormedPair model_;
  peft::LoraConfig config_;
  Tensor x_ = torch::randn({3, 4});
};

TEST_F(SetAnew, IsNamedByTheForwardThatDoesIt) {
  const CollectWarnings warnings;
  model_->forward(x_);
  EXPECT_EQ(warnings.size(), 2);
  EXPECT_THAT(warnings.all(), HasSubstr("'first.linear.weight' was set anew"));
  EXPECT_THAT(warnings.all(), HasSubstr("register_layer"));
  model_->forward(x_);
  EXPECT_EQ(warnings.size(), 2);
}

TEST_F(SetAnew, LeavesTheModelsStateToBeFound) {
  const CollectWarnings warnings;
  model_->forward(x_);
  EXPECT_EQ(peft::get_peft_model_state_dict(*model_).size(), 4);
  EXPECT_THAT(
      error_of(
          peft::ErrorKind::state,
          [&] { peft::inject_adapter_in_model(config_, *model_); }),
      HasSubstr("default"));
  const auto report = peft::adapters_of(*model_).audit();
  ASSERT_EQ(report.set_anew.size(), 2);
  EXPECT_EQ(report.set_anew[1].layer, "second.linear");
  EXPECT_TRUE(report.never_called.empty());
  EXPECT_THAT(
      report.to_string(), HasSubstr("2 layers whose weight was set anew"));
  EXPECT_THAT(
      error_of(peft::ErrorKind::state, [&] { peft::merge_adapter(*model_); }),
      HasSubstr("was set anew"));
  const TempFolder folder;
  peft::save_pretrained(*model_, folder / "out");
  peft::unload(*model_);
  for (const Tensor& parameter : model_->parameters()) {
    EXPECT_TRUE(parameter.requires_grad());
  }
  EXPECT_TRUE(model_->first->linear->children().empty());
  EXPECT_THAT(
      error_of(peft::ErrorKind::state, [&] { peft::unload(*model_); }),
      HasSubstr("no adapters"));
}

TEST_F(SetAnew, SaysNothingWhereNothingIsLost) {
  const CollectWarnings warnings;
  { NormedPair gone = std::move(model_); }
  nn::Sequential model(nn::Linear(4, 3), nn::LSTM(3, 2));
  auto config = lora();
  config.target_modules = {"0", "1"};
  auto adapters = peft::inject_adapter_in_model(config, *model);
  peft::to(*model, torch::kDouble);
  adapters.unload();
  auto parts = peft::inject_adapter_in_model(config, *model);
  parts.delete_adapter("default");
  EXPECT_EQ(warnings.all(), "");
}

TEST_F(SetAnew, IsNoErrorWhereTheHandlerThrows) {
  const auto old = peft::set_warning_handler(
      [](const std::string& text) { throw std::runtime_error(text); });
  model_->forward(x_);
  peft::set_warning_handler(old);
  EXPECT_EQ(peft::adapters_of(*model_).audit().set_anew.size(), 2);
}

TEST_F(SetAnew, IsFoundByTwoAdaptersAndAfterASwap) {
  const CollectWarnings warnings;
  config_.r = 3;
  peft::inject_adapter_in_model(config_, *model_, "b");
  const auto other = peft::get_peft_model_state_dict(*model_, "b");
  auto of_default = config_;
  peft::hotswap_adapter(*model_, other, of_default, "default");
  model_->forward(x_);
  EXPECT_EQ(
      peft::adapters_of(*model_).names(),
      (std::vector<std::string>{"default", "b"}));
  peft::delete_adapter(*model_, "b");
  peft::delete_adapter(*model_, "default");
  EXPECT_TRUE(model_->second->linear->children().empty());
}

TEST_F(SetAnew, LeavesNoCycle) {
  std::weak_ptr<nn::Module> linear = model_->first->linear.ptr();
  const Tensor parameter = model_->parameters()[0];
  const auto held = parameter.use_count();
  model_ = nullptr;
  EXPECT_TRUE(linear.expired());
  EXPECT_LT(parameter.use_count(), held);
  EXPECT_EQ(parameter.use_count(), 1);
}

TEST(SetAnewWeights, AreAdaptedThroughTheirParameters) {
  torch::manual_seed(7);
  peft::register_layer<NormedImpl>(
      {{"v", &NormedImpl::v, peft::WeightUse::any}});
  NormedPair model;
  auto config = lora();
  config.target_parameters = {"v"};
  config.target_modules = std::vector<std::string>{};
  const Tensor x = torch::randn({3, 4});
  const Tensor before = model->forward(x);
  auto adapters = peft::inject_adapter_in_model(config, *model);
  EXPECT_TRUE(torch::allclose(model->forward(x), before, 1e-5, 1e-6));
  const auto f = adapters.trainable_parameters();
  ASSERT_EQ(f.size(), 4);
  randomise(f);
  std::vector<Tensor> c;
  for (const Tensor& factor : f) {
    c.push_back(factor.detach().clone().requires_grad_());
  }
  const auto run = [&](const Normed& layer, const Tensor& in, std::size_t i) {
    const Tensor v = peft::base_weight(layer->v) + 1.5 * c[i + 1].mm(c[i]);
    return F::linear(in, normed(v, layer->g), layer->linear->bias);
  };
  const Tensor expected = run(model->second, run(model->first, x, 0).tanh(), 2);
  const Tensor y = model->forward(x);
  EXPECT_TRUE(torch::allclose(y, expected, 1e-4, 1e-5));
  y.square().sum().backward();
  expected.square().sum().backward();
  for (std::size_t i = 0; i < f.size(); ++i) {
    EXPECT_TRUE(torch::allclose(f[i].grad(), c[i].grad(), 1e-3, 1e-4));
  }
  EXPECT_TRUE(adapters.audit().empty());
  adapters.merge_and_unload();
  EXPECT_TRUE(torch::allclose(model->forward(x), expected, 1e-4, 1e-5));
}

}  // namespace
}  // namespace peft_test
