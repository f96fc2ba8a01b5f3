// SPDX-License-Identifier: Apache-2.0
// Adapters of half-precision models are float32, as PEFT keeps them, whatever
// is done with them; and what is saved is what was loaded.
//
// Where a layer's own weight is zero, a float32 adapter's result is rounded
// once, at the end: by half a unit in the last place of the layer's dtype.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/script.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/program_builder.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using torch::Tensor;

constexpr double strength = 1.5;  // alpha / r with r = 2, alpha = 3

peft::LoraConfig lora(const std::vector<std::string>& targets) {
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.target_modules = targets;
  return config;
}

// All that an adapter may have: factors, tables, magnitudes, rows, a copy.
peft::LoraConfig everything() {
  auto config = lora({"up", "down"});
  config.use_dora = true;
  config.modules_to_save = {"head"};
  config.trainable_token_indices = {1, 7};
  return config;
}

bool is_of_copy(const std::string& key) {
  return key.starts_with("head.");
}

void randomise_floats(const peft::Adapters& adapters, const char* name) {
  for (const Tensor& tensor : adapters.parameters(name)) {
    if (tensor.is_floating_point()) {
      randomise(std::vector<Tensor>{tensor});
    }
  }
}

peft::StateDict copy_of(const peft::StateDict& state) {
  peft::StateDict copy;
  for (const auto& item : state) {
    copy.insert(item.key(), item.value().detach().clone());
  }
  return copy;
}

class OnHalfPrecision : public testing::TestWithParam<torch::Dtype> {
 protected:
  void SetUp() override {
    torch::manual_seed(6);
    TextModel trained;
    auto adapters = peft::inject_adapter_in_model(everything(), *trained);
    randomise_floats(adapters, "default");
    state_ = copy_of(peft::get_peft_model_state_dict(*trained));
    peft::save_pretrained(*trained, folder_ / "trained");
    model_->to(GetParam());
    model_->eval();
  }

  // The values that were trained, to the bit; copies of modules in the model's
  // own dtype.
  void expect_trained(
      const peft::StateDict& found,
      const std::string& prefix = "") const {
    ASSERT_EQ(found.size(), state_.size());
    for (const auto& item : state_) {
      const Tensor& value = found[prefix + item.key()];
      if (is_of_copy(item.key())) {
        EXPECT_TRUE(torch::equal(value, item.value().to(GetParam())));
      } else {
        EXPECT_TRUE(torch::equal(value, item.value())) << item.key();
      }
    }
  }

  void expect_runs(const std::string& name = "default") {
    expect_trained(peft::get_peft_model_state_dict(*model_, name));
    EXPECT_EQ(model_->forward(text_ids()).scalar_type(), GetParam());
  }

  peft::Adapters adapters() { return peft::adapters_of(*model_); }

  TempFolder folder_;
  peft::StateDict state_;
  TextModel model_;
};

TEST_P(OnHalfPrecision, AdaptersAreFloatUnlessToldOtherwise) {
  peft::inject_adapter_in_model(everything(), *model_, "float");
  peft::inject_adapter_in_model(
      everything(), *model_, "own", {.autocast_adapter_dtype = false});
  const auto of_float = peft::get_peft_model_state_dict(*model_, "float");
  for (const auto& item : of_float) {
    EXPECT_EQ(
        item.value().scalar_type(),
        is_of_copy(item.key()) ? GetParam() : torch::kFloat)
        << item.key();
  }
  for (const auto& item : peft::get_peft_model_state_dict(*model_, "own")) {
    EXPECT_EQ(item.value().scalar_type(), GetParam()) << item.key();
  }
  model_->train();
  adapters().set_adapter("float");
  model_->forward(text_ids()).sum().backward();
  for (const auto& item : of_float) {
    EXPECT_EQ(item.value().grad().scalar_type(), item.value().scalar_type());
  }
}

TEST_P(OnHalfPrecision, WhatIsLoadedIsSavedToTheBit) {
  peft::load_adapter(*model_, folder_ / "trained");
  expect_runs();
  peft::save_pretrained(*model_, folder_ / "again");
  expect_trained(
      peft::load_peft_weights(folder_ / "again"), "base_model.model.");
  peft::load_adapter(
      *model_, folder_ / "trained", "own", {.autocast_adapter_dtype = false});
  for (const auto& item : peft::get_peft_model_state_dict(*model_, "own")) {
    EXPECT_TRUE(torch::equal(item.value(), state_[item.key()].to(GetParam())));
  }
}

TEST_P(OnHalfPrecision, HoweverTheValuesCome) {
  const auto weights = peft::load_peft_weights(folder_ / "trained");
  const auto config = peft::load_adapter_config(folder_ / "trained");
  peft::inject_adapter_in_model(
      *config, *model_, "empty", {.low_cpu_mem_usage = true});
  peft::set_peft_model_state_dict(*model_, weights, "empty");
  expect_runs("empty");
  config->inference_mode = true;
  peft::inject_adapter_in_model(*config, *model_, "frozen");
  peft::hotswap_adapter(*model_, folder_ / "trained", "frozen");
  expect_runs("frozen");
  config->inference_mode = false;
  peft::inject_adapter_in_model(*config, *model_, "trained");
  peft::hotswap_adapter(*model_, folder_ / "trained", "trained");
  expect_runs("trained");
  peft::attach_adapter(*model_, folder_ / "trained", "attached");
  adapters().set_adapter("attached");
  expect_runs("attached");
  peft::hotswap_adapter(*model_, folder_ / "trained", "attached");
  expect_runs("attached");
  auto copy = peft::clone(model_);
  for (const auto& name : adapters().names()) {
    expect_trained(peft::get_peft_model_state_dict(*copy, name));
  }
}

TEST_P(OnHalfPrecision, AttachedOnesMayTakeTheModelsDtype) {
  peft::attach_adapter(
      *model_, folder_ / "trained", "own", {.autocast_adapter_dtype = false});
  adapters().set_adapter("own");
  for (const auto& item : peft::get_peft_model_state_dict(*model_, "own")) {
    EXPECT_EQ(item.value().scalar_type(), GetParam());
  }
  peft::hotswap_adapter(*model_, folder_ / "trained", "own");
  adapters().set_adapter("own");
  for (const auto& item : peft::get_peft_model_state_dict(*model_, "own")) {
    EXPECT_EQ(item.value().scalar_type(), GetParam());
  }
}

TEST_P(OnHalfPrecision, AttachedOnesFollowAModelThatIsCastLater) {
  TextModel model;
  peft::attach_adapter(*model, folder_ / "trained", "attached");
  auto adapters = peft::adapters_of(*model);
  const auto resident = [&] {
    const peft::UseAdapter scope(adapters, "attached");
    model->forward(text_ids());
    return peft::get_peft_model_state_dict(*model, "attached");
  };
  resident();
  model->to(GetParam());
  expect_trained(resident());
  const auto before = resident();
  EXPECT_TRUE(resident().begin()->value().is_same(before.begin()->value()));
}

TEST_P(OnHalfPrecision, AttachedBiasesFollowAModelThatIsCastLater) {
  TextModel trained;
  auto config = lora({"up"});
  config.bias = "all";
  peft::inject_adapter_in_model(config, *trained);
  peft::save_pretrained(*trained, folder_ / "biases");
  TextModel model;
  peft::attach_adapter(*model, folder_ / "biases", "attached");
  const peft::Adapters adapters = peft::adapters_of(*model);
  {
    const peft::UseAdapter scope(adapters, "attached");
    model->forward(text_ids());
  }
  model->to(GetParam());
  const peft::UseAdapter scope(adapters, "attached");
  EXPECT_EQ(model->forward(text_ids()).scalar_type(), GetParam());
}

TEST_P(OnHalfPrecision, CastingTheModelCastsThemAsTheRest) {
  peft::load_adapter(*model_, folder_ / "trained");
  model_->to(torch::kCPU);  // moved, not cast
  expect_runs();
  model_->to(torch::kFloat64);
  for (const auto& item : peft::get_peft_model_state_dict(*model_)) {
    EXPECT_EQ(item.value().scalar_type(), torch::kFloat64) << item.key();
  }
  model_->to(GetParam());
  for (const auto& item : peft::get_peft_model_state_dict(*model_)) {
    EXPECT_EQ(item.value().scalar_type(), GetParam()) << item.key();
  }
  auto copy = peft::clone(model_);  // the same dtypes
  for (const auto& item : peft::get_peft_model_state_dict(*copy)) {
    EXPECT_EQ(item.value().scalar_type(), GetParam()) << item.key();
  }
  EXPECT_TRUE(
      torch::equal(copy->forward(text_ids()), model_->forward(text_ids())));
  adapters().cast_adapter_dtype();
  for (const auto& item : peft::get_peft_model_state_dict(*model_)) {
    EXPECT_EQ(
        item.value().scalar_type(),
        is_of_copy(item.key()) ? GetParam() : torch::kFloat);
  }
  EXPECT_EQ(model_->forward(text_ids()).scalar_type(), GetParam());
  peft::hotswap_adapter(*model_, folder_ / "trained");
  expect_runs();
}

TEST_P(OnHalfPrecision, CombinationsAreExactAndCopiesKeepTheirDtype) {
  auto config = lora({"up", "down"});
  config.modules_to_save = {"head"};
  auto adapters = peft::inject_adapter_in_model(config, *model_, "a");
  peft::inject_adapter_in_model(lora({"up", "down"}), *model_, "b");
  randomise_floats(adapters, "a");
  randomise_floats(adapters, "b");
  peft::CombineOptions cat;
  cat.combination_type = "cat";
  peft::add_weighted_adapter(*model_, {"a", "b"}, {0.3, -0.7}, "sum", cat);
  const auto a = peft::get_peft_model_state_dict(*model_, "a");
  const auto b = peft::get_peft_model_state_dict(*model_, "b");
  const auto sum = peft::get_peft_model_state_dict(*model_, "sum");
  const auto product = [](const peft::StateDict& state, double scale) {
    return state["blocks.0.up.lora_B.weight"]
               .detach()
               .to(torch::kFloat64)
               .mm(state["blocks.0.up.lora_A.weight"].detach().to(
                   torch::kFloat64)) *
        scale;
  };
  // "cat" is exact: its alpha is its rank.
  EXPECT_TRUE(torch::allclose(
      product(sum, 1),
      product(a, 0.3 * strength) + product(b, -0.7 * strength),
      1e-5,
      1e-6));
  EXPECT_EQ(sum["head.weight"].scalar_type(), GetParam());
  adapters.set_adapter("sum");
  EXPECT_EQ(model_->forward(text_ids()).scalar_type(), GetParam());
  peft::resize_adapter(*model_, 1, "b");
  EXPECT_EQ(
      peft::get_peft_model_state_dict(*model_, "b")["blocks.0.up.lora_A.weight"]
          .scalar_type(),
      torch::kFloat);
}

// By half a unit in the last place, and what sums in float32 lose.
void expect_rounded_once(const Tensor& found, const Tensor& exact) {
  const double epsilon =
      found.scalar_type() == torch::kBFloat16 ? 0x1p-7 : 0x1p-10;
  const auto [mantissa, exponent] = torch::frexp(exact);
  const Tensor ulp = torch::pow(2.0, exponent - 1) * epsilon;
  const Tensor difference = (found.to(torch::kFloat64) - exact).abs();
  EXPECT_TRUE((difference <= ulp * 0.501 + 1e-6).all().item<bool>())
      << (difference / ulp).max();
}

Tensor exact_of(const Tensor& tensor) {
  return tensor.detach().to(torch::kFloat64);
}

TEST_P(OnHalfPrecision, ProductsAreComputedInFloatAndRoundedOnce) {
  nn::Sequential model(
      nn::Linear(nn::LinearOptions(7, 5).bias(false)),
      nn::Conv1d(nn::Conv1dOptions(3, 5, 2).bias(false)),
      nn::Embedding(9, 6));
  model->to(GetParam());
  auto adapters = peft::inject_adapter_in_model(lora({"0", "1", "2"}), *model);
  randomise_floats(adapters, "default");
  const torch::NoGradGuard no_grad;
  for (auto& parameter : {"0.weight", "1.weight", "2.weight"}) {
    model->named_parameters()[parameter].zero_();
  }
  const auto p = adapters.parameters("default");

  const Tensor x = torch::randn({4, 7}, GetParam());
  expect_rounded_once(
      model->at<nn::LinearImpl>(0).forward(x),
      exact_of(x).mm(exact_of(p[0]).t()).mm(exact_of(p[1]).t()) * strength);

  const Tensor signal = torch::randn({2, 3, 6}, GetParam());
  expect_rounded_once(
      model->at<nn::Conv1dImpl>(1).forward(signal),
      torch::conv1d(
          torch::conv1d(exact_of(signal), exact_of(p[2])), exact_of(p[3])) *
          strength);

  const Tensor ids = torch::tensor({{1, 8}, {0, 1}});
  expect_rounded_once(
      model->at<nn::EmbeddingImpl>(2).forward(ids),
      torch::embedding(exact_of(p[4]).t(), ids).matmul(exact_of(p[5]).t()) *
          strength);

  // Merged, too.
  adapters.merge_adapter();
  expect_rounded_once(
      peft::effective_weight(model->at<nn::LinearImpl>(0).weight),
      exact_of(p[1]).mm(exact_of(p[0])) * strength);
}

TEST_P(OnHalfPrecision, ALoneTensorHasThemToo) {
  const Tensor weight = torch::randn({5, 7}, GetParam());
  const auto config = lora({"none that it has"});
  const Tensor adapted = peft::adapt(weight, config);
  for (const Tensor& tensor : peft::adapter_parameters(adapted)) {
    EXPECT_EQ(tensor.scalar_type(), torch::kFloat);
  }
  EXPECT_EQ(
      torch::linear(torch::randn({2, 7}, GetParam()), adapted).scalar_type(),
      GetParam());
  const Tensor own = peft::adapt(
      weight,
      config,
      peft::WeightUse::linear,
      /*autocast_adapter_dtype=*/false);
  EXPECT_EQ(peft::adapter_parameters(own)[0].scalar_type(), GetParam());
}

TEST_P(OnHalfPrecision, MovingAScriptLeavesThemAndCastingTakesThemAlong) {
  torch::jit::Module model("M");
  torch::jit::Module up(
      "__torch__.torch.nn.modules.linear.Linear",
      model._ivalue()->compilation_unit());
  up.register_parameter("weight", torch::randn({3, 4}, GetParam()), false);
  up.define("def forward(self, x):\n  return torch.linear(x, self.weight)\n");
  model.register_module("up", up);
  model.define("def forward(self, x):\n  return self.up.forward(x)\n");
  auto adapters = peft::inject_adapter_in_model(lora({"up"}), model);
  const auto dtype = [&] {
    return adapters.parameters("default")[0].scalar_type();
  };
  EXPECT_EQ(dtype(), torch::kFloat);
  model.to(torch::kCPU);
  EXPECT_EQ(dtype(), torch::kFloat);
  EXPECT_EQ(
      model.forward({torch::randn({2, 4}, GetParam())})
          .toTensor()
          .scalar_type(),
      GetParam());
  model.to(torch::kFloat64);
  EXPECT_EQ(dtype(), torch::kFloat64);
  model.to(GetParam());
  EXPECT_EQ(dtype(), GetParam());
}

TEST_P(OnHalfPrecision, MovingAProgramLeavesThemAndCastingTakesThemAlong) {
  ProgramBuilder builder;
  builder.parameter("body.weight", torch::randn({4, 4}, GetParam()))
      .module("body");
  builder.input("x", GetParam(), {2, 4});
  builder.graph.node(
      "torch.ops.aten.linear.default",
      {{"input", value("x")}, {"weight", value("p_body_weight")}},
      {"y"},
      "body,torch.nn.modules.linear.Linear");
  builder.output("y");
  builder.write(folder_ / "program.pt2");
  auto program = peft::ExportedProgram::load(folder_ / "program.pt2");
  auto adapters = peft::inject_adapter_in_model(lora({"body"}), program);
  randomise_floats(adapters, "default");
  const auto dtype = [&] {
    return adapters.parameters("default")[0].scalar_type();
  };
  const Tensor x = torch::randn({2, 4}, GetParam());
  const Tensor y = program.forward({x}).at(0);
  program.to(torch::kCPU);
  EXPECT_EQ(dtype(), torch::kFloat);
  EXPECT_TRUE(torch::equal(program.forward({x}).at(0), y));
  program.to(torch::kFloat64);
  EXPECT_EQ(dtype(), torch::kFloat64);
  program.to(GetParam());
  EXPECT_EQ(dtype(), GetParam());
}

INSTANTIATE_TEST_SUITE_P(
    AutocastDtype,
    OnHalfPrecision,
    testing::Values(torch::kBFloat16, torch::kHalf),
    [](const auto& test) { return std::string(c10::toString(test.param)); });

TEST(AutocastDtype, LeavesFloat32AndFloat64AsTheyAre) {
  for (const auto dtype : {torch::kFloat, torch::kFloat64}) {
    TextModel model;
    model->to(dtype);
    peft::inject_adapter_in_model(everything(), *model);
    for (const auto& item : peft::get_peft_model_state_dict(*model)) {
      EXPECT_EQ(item.value().scalar_type(), dtype) << item.key();
    }
  }
}

}  // namespace
}  // namespace peft_test
