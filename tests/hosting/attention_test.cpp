// SPDX-License-Identifier: Apache-2.0
// MultiheadAttention and what contains it, against attention layers that hold
// the effective weights as plain tensors.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "hosting/adapted_weight.h"
#include "peft/peft.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using torch::Tensor;

peft::LoraConfig config_for(peft::ModuleChoice targets) {
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;  // s = 1.5
  config.target_modules = std::move(targets);
  return config;
}

struct EncoderImpl : nn::Cloneable<EncoderImpl> {
  EncoderImpl() { reset(); }
  void reset() override {
    attention = register_module(
        "attention",
        nn::MultiheadAttention(nn::MultiheadAttentionOptions(8, 2)));
  }
  nn::MultiheadAttention attention{nullptr};
};
TORCH_MODULE(Encoder);

Tensor product(const peft::StateDict& state, const std::string& layer) {
  return state[layer + ".lora_B.weight"].mm(state[layer + ".lora_A.weight"]) *
      1.5;
}

class Attention : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(5);
    model_ = Encoder();
    plain_ = Encoder(std::dynamic_pointer_cast<EncoderImpl>(model_->clone()));
    auto adapters =
        peft::inject_adapter_in_model(config_for({"attention"}), *model_);
    randomise(adapters.parameters("default"));
    state_ = peft::get_peft_model_state_dict(*model_);
    copies_ = state_;
    for (auto& item : copies_) {
      item.value() = item.value().detach().clone().requires_grad_();
    }
    plain_->attention->in_proj_weight =
        plain_->attention->in_proj_weight + product(copies_, "attention");
    plain_->attention->out_proj->weight = plain_->attention->out_proj->weight +
        product(copies_, "attention.base_layer.out_proj");
  }

  void expect_equal(const Tensor& q, const Tensor& k, const Tensor& v) {
    const auto formed = peft::detail::effective_weights_formed();
    const auto y = std::get<0>(model_->attention->forward(q, k, v));
    EXPECT_EQ(peft::detail::effective_weights_formed(), formed);
    const auto expected = std::get<0>(plain_->attention->forward(q, k, v));
    EXPECT_TRUE(torch::allclose(y, expected, 1e-4, 1e-5));
    y.pow(2).sum().backward();
    expected.pow(2).sum().backward();
    for (const auto& item : state_) {
      EXPECT_TRUE(torch::allclose(
          item.value().grad(), copies_[item.key()].grad(), 1e-3, 1e-4))
          << item.key();
    }
  }

  Encoder model_{nullptr};
  Encoder plain_{nullptr};
  peft::StateDict state_;
  peft::StateDict copies_;
};

TEST_F(Attention, HasPeftsKeysAndShapes) {
  EXPECT_EQ(
      state_.keys(),
      (std::vector<std::string>{
          "attention.lora_A.weight",
          "attention.lora_B.weight",
          "attention.base_layer.out_proj.lora_A.weight",
          "attention.base_layer.out_proj.lora_B.weight"}));
  EXPECT_EQ(
      state_["attention.lora_B.weight"].sizes(), (at::IntArrayRef{24, 2}));
}

TEST_F(Attention, SelfAttention) {
  const auto x = torch::randn({4, 3, 8});
  expect_equal(x, x, x);
}

TEST_F(Attention, EncoderDecoderAttention) {
  const auto memory = torch::randn({6, 3, 8});
  expect_equal(torch::randn({4, 3, 8}), memory, memory);
}

TEST_F(Attention, ThreeDifferentInputs) {
  expect_equal(
      torch::randn({4, 3, 8}),
      torch::randn({6, 3, 8}),
      torch::randn({6, 3, 8}));
}

// libtorch's own attention wants keys and values of one size.
TEST(SeparateProjections, AreEachAdapted) {
  torch::manual_seed(5);
  nn::MultiheadAttention attention(
      nn::MultiheadAttentionOptions(8, 2).kdim(5).vdim(5));
  struct Holder : nn::Module {};
  Holder root;
  root.register_module("mha", attention);
  nn::MultiheadAttention plain(
      std::dynamic_pointer_cast<nn::MultiheadAttentionImpl>(
          attention->clone()));
  auto adapters = peft::inject_adapter_in_model(config_for({"mha"}), root);
  randomise(adapters.parameters("default"));
  const auto state = peft::get_peft_model_state_dict(root);
  EXPECT_EQ(state.size(), 8);
  plain->q_proj_weight = plain->q_proj_weight + product(state, "mha.q_proj");
  plain->k_proj_weight = plain->k_proj_weight + product(state, "mha.k_proj");
  plain->v_proj_weight = plain->v_proj_weight + product(state, "mha.v_proj");
  plain->out_proj->weight =
      plain->out_proj->weight + product(state, "mha.base_layer.out_proj");
  const auto q = torch::randn({4, 3, 8});
  const auto k = torch::randn({6, 3, 5});
  const auto v = torch::randn({6, 3, 5});
  EXPECT_TRUE(torch::allclose(
      std::get<0>(attention->forward(q, k, v)),
      std::get<0>(plain->forward(q, k, v)),
      1e-4,
      1e-5));
  adapters.unload();
  EXPECT_EQ(attention->children().size(), 1);
}

TEST(OutProjAlone, IsAnEffectiveTarget) {
  torch::manual_seed(5);
  Encoder model;
  const auto x = torch::randn({4, 3, 8});
  const auto before = std::get<0>(model->attention->forward(x, x, x));
  auto adapters =
      peft::inject_adapter_in_model(config_for("all-linear"), *model);
  randomise(adapters.parameters("default"));
  EXPECT_EQ(
      peft::get_peft_model_state_dict(*model).keys()[0],
      "attention.out_proj.lora_A.weight");
  const auto after = std::get<0>(model->attention->forward(x, x, x));
  EXPECT_FALSE(torch::allclose(before, after));
}

TEST(Transformer, EveryAdapterOfEncoderAndDecoderGetsAGradient) {
  torch::manual_seed(5);
  nn::Transformer model(
      nn::TransformerOptions(8, 2, 2, 2).dim_feedforward(12).dropout(0.0));
  auto config = config_for(R"(.*(self_attn|multihead_attn|linear1|linear2))");
  const auto src = torch::randn({5, 2, 8});
  const auto tgt = torch::randn({4, 2, 8});
  const auto before = model->forward(src, tgt);
  auto adapters = peft::inject_adapter_in_model(config, *model);
  EXPECT_TRUE(torch::equal(model->forward(src, tgt), before));
  randomise(adapters.parameters("default"));
  const auto formed = peft::detail::effective_weights_formed();
  model->forward(src, tgt).pow(2).sum().backward();
  EXPECT_EQ(peft::detail::effective_weights_formed(), formed);
  // 2 encoder layers: 1 attention (2 weights) + 2 linear; 2 decoder layers:
  // 2 attentions + 2 linear; A and B each.
  EXPECT_EQ(adapters.trainable_parameters().size(), 2 * (2 * 4 + 2 * 6));
  for (const auto& p : adapters.trainable_parameters()) {
    EXPECT_TRUE(p.grad().defined());
    EXPECT_GT(p.grad().abs().sum().item<double>(), 0);
  }
}

// Every method against a layer that holds the effective weights and biases,
// with packed and with separate projections.
void check_method(const peft::AdapterConfig& config, bool separate) {
  torch::manual_seed(6);
  nn::MultiheadAttentionOptions options(8, 2);
  if (separate) {
    options.kdim(6).vdim(6);
  }
  nn::MultiheadAttention attention(options);
  nn::MultiheadAttention plain(options);
  nn::Sequential model;
  model->push_back("attention", attention);
  auto adapters = peft::inject_adapter_in_model(config, *model);
  randomise(adapters.parameters("default"));
  const auto set = [](Tensor& to, const Tensor& from) {
    to = from.defined() ? peft::effective_weight(from).detach() : Tensor();
  };
  set(plain->in_proj_weight, attention->in_proj_weight);
  set(plain->q_proj_weight, attention->q_proj_weight);
  set(plain->k_proj_weight, attention->k_proj_weight);
  set(plain->v_proj_weight, attention->v_proj_weight);
  set(plain->in_proj_bias, attention->in_proj_bias);
  set(plain->out_proj->weight, attention->out_proj->weight);
  set(plain->out_proj->bias, attention->out_proj->bias);
  if (config.peft_type() == "IA3" && separate) {
    const auto state = peft::get_peft_model_state_dict(*model);
    const Tensor l = torch::cat(
        {state["attention.q_proj.ia3_l"].flatten(),
         state["attention.k_proj.ia3_l"].flatten(),
         state["attention.v_proj.ia3_l"].flatten()});
    if (l.numel() == 24) {  // over outputs
      EXPECT_TRUE(torch::allclose(
          plain->in_proj_bias, peft::base_weight(attention->in_proj_bias) * l));
    }
  }
  const Tensor q = torch::randn({5, 3, 8});
  const Tensor k = separate ? torch::randn({5, 3, 6}) : q;
  const Tensor v = separate ? torch::randn({5, 3, 6}) : q;
  const Tensor y = std::get<0>(attention->forward(q, k, v));
  EXPECT_TRUE(
      torch::allclose(y, std::get<0>(plain->forward(q, k, v)), 1e-4, 1e-5));
  y.square().sum().backward();
  for (const Tensor& tensor : adapters.trainable_parameters()) {
    EXPECT_TRUE(tensor.grad().defined());
  }
}

TEST(AttentionMethods, EachActsOnEveryProjection) {
  peft::LoraConfig dora = config_for({"attention"});
  dora.use_dora = true;
  peft::LoraConfig with_bias = config_for({"attention"});
  with_bias.lora_bias = true;
  peft::LoraConfig pissa = config_for({"attention"});
  pissa.init_lora_weights = "pissa";
  peft::IA3Config ia3;
  ia3.target_modules = {"attention"};
  ia3.feedforward_modules = std::vector<std::string>();
  peft::IA3Config feedforward = ia3;
  feedforward.feedforward_modules = {"attention"};
  peft::AdaLoraConfig adalora;
  adalora.target_modules = {"attention"};
  adalora.total_step = 10;
  adalora.init_r = 3;
  adalora.target_r = 2;
  const std::vector<const peft::AdapterConfig*> configs = {
      &dora, &with_bias, &pissa, &ia3, &feedforward, &adalora};
  for (const auto* config : configs) {
    SCOPED_TRACE(peft::to_json(*config));
    check_method(*config, /*separate=*/false);
    check_method(*config, /*separate=*/true);
  }
}

}  // namespace
}  // namespace peft_test
