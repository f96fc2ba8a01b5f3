// SPDX-License-Identifier: Apache-2.0
// Recurrent layers read all their weights in one operator. The oracle is the
// same layer whose parameters hold W + s B A.
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
using testing::Contains;
using testing::HasSubstr;
using torch::Tensor;

nn::LSTM make(nn::LSTM*) {
  return nn::LSTM(
      nn::LSTMOptions(4, 3).num_layers(2).bidirectional(true).batch_first(
          true));
}
nn::GRU make(nn::GRU*) {
  return nn::GRU(nn::GRUOptions(4, 3).num_layers(2));
}
nn::RNN make(nn::RNN*) {
  return nn::RNN(nn::RNNOptions(4, 3).bias(false));
}

struct Model : nn::Module {};

peft::LoraConfig config() {
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.target_modules = {"layer"};
  return config;
}

// A second layer whose parameters are leaves of W + s B A.
template <class Layer>
Layer effective_copy(
    Layer& layer,
    const peft::StateDict& adapter,
    std::vector<Tensor>& factors) {
  Layer copy = make(static_cast<Layer*>(nullptr));
  std::vector<std::string> weights;
  for (const auto& item : layer->named_parameters(false)) {
    if (item.key().starts_with("weight")) {
      weights.push_back(item.key());
    }
  }
  const torch::NoGradGuard no_grad;
  for (auto& item : copy->named_parameters(false)) {
    item.value().copy_(layer->named_parameters(false)[item.key()]);
  }
  // PEFT nests the weights of one module: the last one stands outermost.
  std::string prefix = "layer";
  for (auto name = weights.rbegin(); name != weights.rend(); ++name) {
    const Tensor A = adapter[prefix + ".lora_A.weight"];
    const Tensor B = adapter[prefix + ".lora_B.weight"];
    factors.push_back(A);
    factors.push_back(B);
    copy->named_parameters(false)[*name].add_(B.mm(A), 1.5);
    prefix += ".base_layer";
  }
  return copy;
}

template <class Layer>
void check_layer() {
  torch::manual_seed(2);
  Layer layer = make(static_cast<Layer*>(nullptr));
  auto model = std::make_shared<Model>();
  model->register_module("layer", layer);
  const Tensor x = torch::randn({5, 2, 4});
  const Tensor before = std::get<0>(layer->forward(x));
  auto adapters = peft::inject_adapter_in_model(config(), *model);
  EXPECT_TRUE(torch::equal(std::get<0>(layer->forward(x)), before));
  randomise(adapters.parameters("default"));
  std::vector<Tensor> factors;
  auto copy =
      effective_copy(layer, peft::get_peft_model_state_dict(*model), factors);
  const Tensor y = std::get<0>(layer->forward(x));
  const Tensor expected = std::get<0>(copy->forward(x));
  EXPECT_TRUE(torch::allclose(y, expected, 1e-5, 1e-6));
  y.square().sum().backward();
  expected.square().sum().backward();
  // dB = s dW A', dA = s B' dW.
  std::size_t next = 0;
  const auto own = copy->named_parameters(false);
  for (auto item = own.end(); item != own.begin();) {
    --item;
    if (item->key().starts_with("weight")) {
      const Tensor dW = item->value().grad() * 1.5;
      EXPECT_TRUE(torch::allclose(
          factors[next].grad(), factors[next + 1].t().mm(dW), 1e-4, 1e-5));
      EXPECT_TRUE(torch::allclose(
          factors[next + 1].grad(), dW.mm(factors[next].t()), 1e-4, 1e-5));
      next += 2;
    }
  }
  adapters.unload();
  EXPECT_TRUE(torch::equal(std::get<0>(layer->forward(x)), before));
}

TEST(RecurrentLayers, LstmTakesLora) {
  check_layer<nn::LSTM>();
}
TEST(RecurrentLayers, GruTakesLora) {
  check_layer<nn::GRU>();
}
TEST(RecurrentLayers, RnnTakesLora) {
  check_layer<nn::RNN>();
}

TEST(RecurrentLayers, CellsTakeLora) {
  auto model = std::make_shared<Model>();
  auto cell = model->register_module("layer", nn::GRUCell(4, 3));
  auto adapters = peft::inject_adapter_in_model(config(), *model);
  randomise(adapters.parameters("default"));
  const auto f = adapters.parameters("default");
  const auto own = cell->named_parameters(false);
  const Tensor x = torch::randn({2, 4});
  const Tensor h = torch::randn({2, 3});
  EXPECT_TRUE(torch::allclose(
      cell->forward(x, h),
      torch::gru_cell(
          x,
          h,
          own["weight_ih"] + 1.5 * f[1].mm(f[0]),
          own["weight_hh"] + 1.5 * f[3].mm(f[2]),
          own["bias_ih"],
          own["bias_hh"]),
      1e-5,
      1e-6));
}

TEST(RecurrentLayers, CanBeTrainedWhole) {
  auto model = std::make_shared<Model>();
  auto lstm = model->register_module("reader", nn::LSTM(4, 3));
  auto head = model->register_module("layer", nn::Linear(3, 2));
  auto both = config();
  both.modules_to_save = {"reader"};
  auto adapters = peft::inject_adapter_in_model(both, *model);
  const Tensor x = torch::randn({5, 2, 4});
  head->forward(std::get<0>(lstm->forward(x))).sum().backward();
  const auto state = peft::get_peft_model_state_dict(*model);
  EXPECT_THAT(state.keys(), Contains("reader.weight_ih_l0"));
  EXPECT_TRUE(state["reader.weight_ih_l0"].grad().defined());
}

TEST(RecurrentLayers, AreNotMovedByTheModelsOwnTo) {
  auto model = std::make_shared<Model>();
  auto first = model->register_module("first", nn::Linear(4, 4));
  auto lstm = model->register_module("layer", nn::LSTM(4, 3));
  auto adapters = peft::inject_adapter_in_model(config(), *model);
  randomise(adapters.parameters("default"));
  const Tensor x = torch::randn({2, 1, 4});
  const Tensor before = std::get<0>(lstm->forward(x));
  EXPECT_THAT(
      error_of(peft::ErrorKind::state, [&] { model->to(torch::kFloat64); }),
      HasSubstr("peft::to(model"));
  EXPECT_TRUE(torch::equal(std::get<0>(lstm->forward(x)), before));
  peft::to(*model, torch::kFloat64);  // what was begun
  EXPECT_EQ(first->weight.scalar_type(), torch::kFloat64);
  EXPECT_TRUE(torch::allclose(
      std::get<0>(lstm->forward(x.to(torch::kFloat64))),
      before.to(torch::kFloat64),
      1e-5,
      1e-6));
}

template <class Layer>
void check_moves() {
  torch::manual_seed(3);
  Layer layer = make(static_cast<Layer*>(nullptr));
  auto model = std::make_shared<Model>();
  auto head = model->register_module("head", nn::Linear(3, 2));
  model->register_module("layer", layer);
  auto both = config();
  both.target_modules = {"layer", "head"};
  auto adapters = peft::inject_adapter_in_model(both, *model);
  randomise(adapters.parameters("default"));
  const auto tensors = adapters.parameters("default");
  const auto own = layer->named_parameters(false);
  const Tensor x = torch::randn({5, 2, 4}, torch::kFloat64);
  const Tensor before = std::get<0>(layer->forward(x.to(torch::kFloat)));
  peft::to(*model, torch::kCPU, torch::kFloat64);
  EXPECT_TRUE(
      own[0].value().is_same(layer->named_parameters(false)[0].value()));
  const Tensor y = std::get<0>(layer->forward(x));
  EXPECT_TRUE(torch::allclose(y, before.to(torch::kFloat64), 1e-4, 1e-5));
  const Tensor out = y.narrow(-1, 0, 3).matmul(head->weight.t());
  EXPECT_EQ(out.scalar_type(), torch::kFloat64);
  (out.square().sum() + y.square().sum()).backward();
  for (const Tensor& tensor : tensors) {
    EXPECT_EQ(tensor.scalar_type(), torch::kFloat64);
    EXPECT_GT(tensor.grad().abs().sum().template item<double>(), 0);
  }
  peft::to(*model, torch::kCPU);
  EXPECT_TRUE(torch::equal(std::get<0>(layer->forward(x)), y));
  adapters.unload();
  EXPECT_FALSE(torch::allclose(std::get<0>(layer->forward(x)), y));
  peft::to(*model, torch::kFloat);  // no adapters: as the model's own
  EXPECT_EQ(head->weight.scalar_type(), torch::kFloat);
}

TEST(RecurrentLayers, AreMovedByPeftsTo) {
  check_moves<nn::LSTM>();
  check_moves<nn::GRU>();
  check_moves<nn::RNN>();
}

TEST(RecurrentLayers, SavingSaysThatPeftHasNone) {
  auto model = std::make_shared<Model>();
  model->register_module("layer", nn::LSTM(4, 3));
  peft::inject_adapter_in_model(config(), *model);
  const TempFolder folder;
  const CollectWarnings warnings;
  peft::save_pretrained(*model, folder / "out");
  EXPECT_THAT(warnings.all(), HasSubstr("layer (LSTM)"));
}

TEST(RecurrentLayers, DropoutCannotActInThem) {
  auto model = std::make_shared<Model>();
  model->register_module("layer", nn::LSTM(4, 3));
  auto dropping = config();
  dropping.lora_dropout = 0.1;
  EXPECT_THAT(
      error_of(
          peft::ErrorKind::config,
          [&] { peft::inject_adapter_in_model(dropping, *model); }),
      HasSubstr("lora_dropout"));
}

}  // namespace
}  // namespace peft_test
