// SPDX-License-Identifier: Apache-2.0
// Adapters on weights that a program computes before an operator reads them.
// What PEFT does to such a layer, y = layer(x) + scale B A x, is what W + scale
// B A gives, W being what the run computed.
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/error_of.h"
#include "support/program_builder.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using peft::ErrorKind;
using peft::ExportedProgram;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using torch::Tensor;

const std::string aten = "torch.ops.aten.";

// g v / ||v||, by output, as torch._weight_norm makes it.
Tensor norm_weight(const Tensor& v, const Tensor& g) {
  return g * v / v.flatten(1).norm(2, 1).view(g.sizes());
}

// A Conv1d [5, 2, 3] under a weight norm, a Linear [3, 4] that standardises its
// own weight, and a plain Linear between them.
class ComputedWeight : public testing::Test {
 protected:
  ComputedWeight() {
    const std::string conv =
        "conv,torch.nn.utils.parametrize.ParametrizedConv1d";
    const std::string head = "head,model.ScaledLinear";
    builder_.parameter("conv.bias", bias_)
        .parameter("conv.parametrizations.weight.original0", g_)
        .parameter("conv.parametrizations.weight.original1", v_)
        .parameter("plain.weight", plain_)
        .parameter("head.weight", raw_)
        .parameter("head.gain", gain_)
        .module("conv")
        .module("conv.parametrizations")
        .module("conv.parametrizations.weight")
        .module("plain")
        .module("head")
        .input("x", at::kFloat, {"s0", 2, 6});
    auto& graph = builder_.graph;
    graph
        .node(
            aten + "_weight_norm.default",
            {{"v", value("p_conv_parametrizations_weight_original1")},
             {"g", value("p_conv_parametrizations_weight_original0")},
             {"dim", integer(0)}},
            {"w"},
            "conv.parametrizations.weight,torch.nn.ParametrizationList")
        .node(
            aten + "conv1d.default",
            {{"input", value("x")},
             {"weight", value("w")},
             {"bias", value("p_conv_bias")}},
            {"y"},
            conv)
        .node(
            aten + "linear.default",
            {{"input", value("y")}, {"weight", value("p_plain_weight")}},
            {"z"},
            "plain,torch.nn.modules.linear.Linear")
        .node(
            aten + "mul.Tensor",
            {{"self", value("p_head_weight")}, {"other", value("p_head_gain")}},
            {"scaled"},
            head)
        .node(
            aten + "linear.default",
            {{"input", value("z")}, {"weight", value("scaled")}},
            {"out"},
            head);
    builder_.output("out");
    has_shape("w", {5, 2, 3});
    has_shape("scaled", {3, 4});
    config_.r = 2;
    config_.lora_alpha = 3;
    config_.target_modules = {"conv", "head"};
  }

  void has_shape(const char* name, const std::vector<std::int64_t>& sizes) {
    Json list = Json::array();
    for (const auto size : sizes) {
      list.push_back(integer(size));
    }
    builder_.graph.json()["tensor_values"][name] = {
        {"dtype", 7}, {"sizes", list}};
  }

  ExportedProgram load() {
    const auto path = folder_ / (std::to_string(count_++) + ".pt2");
    builder_.write(path);
    return ExportedProgram::load(path);
  }

  // The whole program with these weights.
  Tensor run(const Tensor& x, const Tensor& conv, const Tensor& head) const {
    return torch::linear(
        torch::linear(torch::conv1d(x, conv, bias_), plain_), head);
  }

  // What the config's LoRA makes of them, by the tensors in `state`.
  Tensor expected(const Tensor& x, const peft::StateDict& state) const {
    const Tensor conv = norm_weight(v_, g_) +
        1.5 *
            torch::einsum(
                "or,rik->oik",
                {state["conv.lora_B.weight"].squeeze(-1),
                 state["conv.lora_A.weight"]});
    const Tensor head = raw_ * gain_ +
        1.5 * state["head.lora_B.weight"].mm(state["head.lora_A.weight"]);
    return run(x, conv, head);
  }

  static bool close(const Tensor& a, const Tensor& b) {
    return torch::allclose(a, b, 1e-4, 1e-4);
  }

  Tensor bias_ = torch::randn({5});
  Tensor v_ = torch::randn({5, 2, 3});
  Tensor g_ = torch::rand({5, 1, 1}) + 0.5;
  Tensor plain_ = torch::randn({4, 4});
  Tensor raw_ = torch::randn({3, 4});
  Tensor gain_ = torch::rand({3, 1}) + 0.5;
  Tensor x_ = torch::randn({3, 2, 6});
  TempFolder folder_;
  int count_ = 0;
  ProgramBuilder builder_;
  peft::LoraConfig config_;
};

TEST_F(ComputedWeight, TakesAnAdapter) {
  auto program = load();
  const Tensor before = program.forward({x_}).at(0);
  EXPECT_TRUE(close(before, run(x_, norm_weight(v_, g_), raw_ * gain_)));
  const auto names = program.named_parameters().keys();
  auto adapters = peft::inject_adapter_in_model(config_, program);
  EXPECT_TRUE(torch::equal(program.forward({x_}).at(0), before));
  randomise(adapters.trainable_parameters());
  const auto state = peft::get_peft_model_state_dict(program);
  EXPECT_THAT(state["conv.lora_A.weight"].sizes(), ElementsAre(2, 2, 3));
  EXPECT_THAT(state["head.lora_B.weight"].sizes(), ElementsAre(3, 2));
  const Tensor y = program.forward({x_}).at(0);
  EXPECT_TRUE(close(y, expected(x_, state)));
  const auto factors = adapters.trainable_parameters();
  ASSERT_EQ(factors.size(), 4);
  const auto ours = torch::autograd::grad({y.square().sum()}, factors);
  const auto theirs =
      torch::autograd::grad({expected(x_, state).square().sum()}, factors);
  for (std::size_t i = 0; i < factors.size(); ++i) {
    EXPECT_TRUE(torch::allclose(ours[i], theirs[i], 1e-3, 1e-3)) << i;
  }
  adapters.unload();
  EXPECT_EQ(program.named_parameters().keys(), names);
  EXPECT_TRUE(torch::equal(program.forward({x_}).at(0), before));
}

// The run computes it: a change of what it is made of is seen, in every way of
// running adapters.
TEST_F(ComputedWeight, FollowsWhatItIsMadeOf) {
  auto program = load();
  auto adapters = peft::inject_adapter_in_model(config_, program);
  randomise(adapters.trainable_parameters());
  const auto state = peft::get_peft_model_state_dict(program);
  const auto change = [&] {
    const torch::NoGradGuard no_grad;
    g_.mul_(1.5);
    gain_.add_(0.25);
    const auto own = program.named_parameters();
    own["conv.parametrizations.weight.original0"].copy_(g_);
    own["head.gain"].copy_(gain_);
  };
  change();
  EXPECT_TRUE(close(program.forward({x_}).at(0), expected(x_, state)));
  adapters.merge_adapter();
  EXPECT_TRUE(close(program.forward({x_}).at(0), expected(x_, state)));
  change();
  EXPECT_TRUE(close(program.forward({x_}).at(0), expected(x_, state)));
  adapters.unmerge_adapter();
  EXPECT_TRUE(close(program.forward({x_}).at(0), expected(x_, state)));
}

// A gradient reaches what the weight is made of, where the user trains that.
TEST_F(ComputedWeight, PassesGradientsOn) {
  auto program = load();
  auto adapters = peft::inject_adapter_in_model(config_, program);
  randomise(adapters.trainable_parameters());
  const auto state = peft::get_peft_model_state_dict(program);
  Tensor own =
      program.named_parameters()["conv.parametrizations.weight.original0"];
  own.set_requires_grad(true);
  const auto ours =
      torch::autograd::grad({program.forward({x_}).at(0).sum()}, {own});
  g_.set_requires_grad(true);
  const auto theirs = torch::autograd::grad({expected(x_, state).sum()}, {g_});
  EXPECT_TRUE(close(ours[0], theirs[0]));
}

TEST_F(ComputedWeight, TakesSeveralAdaptersAndMixedBatches) {
  auto program = load();
  auto adapters = peft::inject_adapter_in_model(config_, program, "a");
  randomise(adapters.parameters("a"));
  peft::inject_adapter_in_model(config_, program, "b");
  randomise(adapters.parameters("b"));
  const auto a = peft::get_peft_model_state_dict(program, "a");
  const auto b = peft::get_peft_model_state_dict(program, "b");
  const auto check = [&](const char* name, const peft::StateDict& state) {
    const peft::UseAdapter scope(adapters, name);
    EXPECT_TRUE(close(program.forward({x_}).at(0), expected(x_, state)));
  };
  std::thread other([&] { check("a", a); });
  check("b", b);
  other.join();
  {
    const peft::BatchAdapters batch(adapters, {"b", "__base__", "a"});
    const Tensor y = program.forward({x_}).at(0);
    EXPECT_TRUE(close(y[0], expected(x_, b)[0]));
    EXPECT_TRUE(close(y[1], run(x_, norm_weight(v_, g_), raw_ * gain_)[1]));
    EXPECT_TRUE(close(y[2], expected(x_, a)[2]));
  }
  adapters.enable_adapters(false);
  EXPECT_TRUE(close(
      program.forward({x_}).at(0), run(x_, norm_weight(v_, g_), raw_ * gain_)));
}

// DoRA starts from the norms of the value and divides by those of the run.
TEST_F(ComputedWeight, HasAValueToStartFrom) {
  auto program = load();
  config_.use_dora = true;
  config_.target_modules = {"head"};
  auto adapters = peft::inject_adapter_in_model(config_, program);
  const auto state = peft::get_peft_model_state_dict(program);
  const Tensor w = raw_ * gain_;
  EXPECT_TRUE(close(state["head.lora_magnitude_vector"], w.norm(2, 1)));
  randomise(adapters.trainable_parameters());
  const Tensor v =
      w + 1.5 * state["head.lora_B.weight"].mm(state["head.lora_A.weight"]);
  const Tensor dora = state["head.lora_magnitude_vector"].unsqueeze(1) * v /
      v.norm(2, 1, true).detach();
  EXPECT_TRUE(
      close(program.forward({x_}).at(0), run(x_, norm_weight(v_, g_), dora)));
}

TEST_F(ComputedWeight, MovesAlong) {
  auto program = load();
  auto adapters = peft::inject_adapter_in_model(config_, program);
  randomise(adapters.trainable_parameters());
  const auto state = peft::get_peft_model_state_dict(program);
  const Tensor y = expected(x_, state);
  program.to(at::kDouble);
  EXPECT_EQ(adapters.trainable_parameters().front().scalar_type(), at::kDouble);
  EXPECT_TRUE(
      close(program.forward({x_.to(at::kDouble)}).at(0).to(at::kFloat), y));
}

TEST_F(ComputedWeight, IsNotWhatParametersAreAskedFor) {
  auto program = load();
  config_.target_modules = {};
  config_.target_parameters = {"head.weight"};
  auto adapters = peft::inject_adapter_in_model(config_, program);
  randomise(adapters.trainable_parameters());
  const auto state = peft::get_peft_model_state_dict(program);
  EXPECT_TRUE(state.contains("head.lora_A.weight"));
  // The parameter itself: its update is scaled with it.
  const Tensor raw = peft::get_base_model_state_dict(
      program, peft::BaseValues::merged)["head.weight"];
  EXPECT_FALSE(close(raw, raw_));
  EXPECT_TRUE(close(
      program.forward({x_}).at(0), run(x_, norm_weight(v_, g_), raw * gain_)));
  adapters.unload();
  // And "all-linear" goes by the class, which says nothing here.
  config_.target_parameters = {};
  config_.target_modules = "all-linear";
  EXPECT_THAT(
      peft::match_report(config_, program.module()).adapted(),
      ElementsAre("plain"));
}

TEST_F(ComputedWeight, CannotBeMergedForGood) {
  auto program = load();
  auto adapters = peft::inject_adapter_in_model(config_, program);
  randomise(adapters.trainable_parameters());
  const Tensor y = program.forward({x_}).at(0);
  const auto says = AllOf(
      HasSubstr("'conv'"),
      HasSubstr("'head'"),
      HasSubstr("computes its weight"));
  EXPECT_THAT(
      error_of(ErrorKind::state, [&] { adapters.merge_and_unload(); }), says);
  EXPECT_THAT(
      error_of(
          ErrorKind::state,
          [&] {
            peft::get_base_model_state_dict(program, peft::BaseValues::merged);
          }),
      says);
  const auto merged = folder_ / "merged.pt2";
  EXPECT_THAT(
      error_of(ErrorKind::state, [&] { program.save_merged(merged); }), says);
  EXPECT_FALSE(std::filesystem::exists(merged));
  EXPECT_TRUE(torch::equal(program.forward({x_}).at(0), y));
  program.save(folder_ / "own.pt2");
  auto own = ExportedProgram::load(folder_ / "own.pt2");
  EXPECT_TRUE(close(
      own.forward({x_}).at(0), run(x_, norm_weight(v_, g_), raw_ * gain_)));
}

// Not under a parametrization, but in a class of its own: PEFT makes A and B
// layers of that class, which standardise their weights as well.
TEST_F(ComputedWeight, OfAConvolutionsOwnClassIsRefused) {
  for (Json& node : builder_.graph.json()["nodes"]) {
    std::string stack = node["metadata"].value("nn_module_stack", "");
    const std::string torch_class = "torch.nn.utils.parametrize.Parametrized";
    if (const auto at = stack.find(torch_class); at != std::string::npos) {
      stack.replace(at, torch_class.size(), "timm.layers.std_conv.ScaledStd");
      node["metadata"]["nn_module_stack"] = stack;
    }
  }
  auto program = load();
  EXPECT_THAT(
      error_of(
          ErrorKind::target,
          [&] { peft::inject_adapter_in_model(config_, program); }),
      AllOf(
          HasSubstr("'conv' of type ScaledStdConv1d"),
          HasSubstr("layers of the same class"),
          testing::Not(HasSubstr("register"))));
  EXPECT_TRUE(close(
      program.forward({x_}).at(0), run(x_, norm_weight(v_, g_), raw_ * gain_)));
}

TEST_F(ComputedWeight, LoadsWhatItSaved) {
  auto program = load();
  auto adapters = peft::inject_adapter_in_model(config_, program);
  randomise(adapters.trainable_parameters());
  const Tensor y = program.forward({x_}).at(0);
  const TempFolder saved;
  peft::save_adapter(program, saved.path());
  auto other = load();
  peft::load_adapter(other, saved.path());
  EXPECT_TRUE(torch::equal(other.forward({x_}).at(0), y));
}

}  // namespace
}  // namespace peft_test
