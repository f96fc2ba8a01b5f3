// SPDX-License-Identifier: Apache-2.0
// torch.vmap in programs. What it must give is what a loop over the rows gives,
// or the same with the adapters' effective weights.
#include <ATen/functorch/DynamicLayer.h>
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
using testing::HasSubstr;
using torch::Tensor;
namespace functorch = at::functorch;

const std::string aten = "torch.ops.aten.";
const std::string predispatch = "torch._functorch.predispatch.";
const char* const linear_class = "layer,torch.nn.modules.linear.Linear";

void open(
    GraphBuilder& graph,
    Json size,
    const std::string& randomness = "error") {
  graph.node(predispatch + "lazy_load_decompositions", {}, {});
  graph.node(
      predispatch + "_vmap_increment_nesting",
      {{"", std::move(size)}, {"", text(randomness)}},
      {});
}

void close(GraphBuilder& graph) {
  graph.node(predispatch + "_vmap_decrement_nesting", {}, {});
}

void enter(
    GraphBuilder& graph,
    const std::string& x,
    std::int64_t dim,
    std::int64_t level,
    const std::string& result) {
  graph.node(
      predispatch + "_add_batch_dim",
      {{"", value(x)}, {"", integer(dim)}, {"", integer(level)}},
      {result});
}

void leave(
    GraphBuilder& graph,
    const std::string& x,
    std::int64_t level,
    Json size,
    std::int64_t dim,
    const std::string& result) {
  graph.node(
      predispatch + "_remove_batch_dim",
      {{"", value(x)},
       {"", integer(level)},
       {"", std::move(size)},
       {"", integer(dim)}},
      {result});
}

bool has_level() {
  return functorch::maybeCurrentDynamicLayer().has_value();
}

class Vmap : public testing::Test {
 protected:
  ExportedProgram load(const ProgramBuilder& builder) {
    const auto path = folder_ / (std::to_string(count_++) + ".pt2");
    builder.write(path);
    return ExportedProgram::load(path);
  }

  std::string refused(const ProgramBuilder& builder) {
    return error_of(ErrorKind::program, [&] { load(builder); });
  }

  // x [rows, 4] -> layer of each row, rows hidden.
  ProgramBuilder of_rows() {
    ProgramBuilder builder;
    builder.parameter("layer.weight", weight_)
        .parameter("layer.bias", bias_)
        .module("layer")
        .input("x", at::kFloat, {"s0", 4});
    builder.graph.size_node(
        aten + "sym_size.int",
        {{"self", value("x")}, {"dim", integer(0)}},
        "n");
    open(builder.graph, size_value("n"));
    enter(builder.graph, "x", 0, 1, "row");
    builder.graph.node(
        aten + "linear.default",
        {{"input", value("row")},
         {"weight", value("p_layer_weight")},
         {"bias", value("p_layer_bias")}},
        {"y"},
        linear_class);
    leave(builder.graph, "y", 1, size_value("n"), 0, "z");
    close(builder.graph);
    builder.output("z");
    return builder;
  }

  // x [3] -> x + noise for each element.
  ProgramBuilder noisy(const std::string& randomness) {
    ProgramBuilder builder;
    builder.input("x", at::kFloat, {3});
    open(builder.graph, integer(3), randomness);
    enter(builder.graph, "x", 0, 1, "row");
    builder.graph.node(
        aten + "rand.default", {{"size", integers({5})}}, {"noise"});
    builder.graph.node(
        aten + "add.Tensor",
        {{"self", value("noise")}, {"other", value("row")}},
        {"y"});
    leave(builder.graph, "y", 1, integer(3), 0, "z");
    close(builder.graph);
    builder.output("z");
    return builder;
  }

  Tensor weight_ = torch::randn({3, 4});
  Tensor bias_ = torch::randn({3});
  TempFolder folder_;
  int count_ = 0;
};

TEST_F(Vmap, RunsOnEachRow) {
  auto program = load(of_rows());
  for (const int rows : {1, 5}) {
    const Tensor x = torch::randn({rows, 4});
    EXPECT_TRUE(torch::allclose(
        program.forward({x}).at(0),
        torch::linear(x, weight_, bias_),
        1e-5,
        1e-6));
  }
  EXPECT_FALSE(has_level());
}

// a [2, 3, 5] over its dimension 1, then b [2, 5] over its dimension 0 beside
// it: sum over 5 of a[i, j] * b[i], for j outside and i inside; and, for each
// j, what no row changes.
TEST_F(Vmap, HasLevelsInLevels) {
  ProgramBuilder builder;
  builder.input("a", at::kFloat, {2, 3, 5}).input("b", at::kFloat, {2, 5});
  auto& graph = builder.graph;
  open(graph, integer(3));
  enter(graph, "a", 1, 1, "aj");
  open(graph, integer(2));
  enter(graph, "aj", 0, 2, "aij");
  enter(graph, "b", 0, 2, "bi");
  graph
      .node(
          aten + "mul.Tensor",
          {{"self", value("aij")}, {"other", value("bi")}},
          {"product"})
      .node(aten + "sum.default", {{"self", value("product")}}, {"sum"});
  leave(graph, "sum", 2, integer(2), 0, "sums");
  leave(graph, "bi", 2, integer(2), -1, "turned");
  close(graph);
  leave(graph, "sums", 1, integer(3), 0, "all");
  leave(graph, "turned", 1, integer(3), 1, "repeated");
  leave(graph, "b", 1, integer(3), -1, "last");
  close(graph);
  builder.output("all").output("repeated").output("last");
  auto program = load(builder);
  const Tensor a = torch::randn({2, 3, 5}).requires_grad_();
  const Tensor b = torch::randn({2, 5}).requires_grad_();
  const auto check = [&] {
    const auto y = program.forward({a, b});
    const Tensor expected = torch::einsum("ijk,ik->ji", {a, b});
    ASSERT_TRUE(torch::allclose(y.at(0), expected, 1e-5, 1e-6));
    // [5, 2] of every j, j in the middle.
    EXPECT_TRUE(torch::equal(y.at(1), b.t().unsqueeze(1).expand({5, 3, 2})));
    EXPECT_TRUE(torch::equal(y.at(2), b.unsqueeze(-1).expand({2, 5, 3})));
    const auto ours = torch::autograd::grad({y.at(0).square().sum()}, {a, b});
    const auto theirs =
        torch::autograd::grad({expected.square().sum()}, {a, b});
    EXPECT_TRUE(torch::allclose(ours[0], theirs[0], 1e-4, 1e-5));
    EXPECT_TRUE(torch::allclose(ours[1], theirs[1], 1e-4, 1e-5));
  };
  check();
  // The levels that export wrote are not the thread's when it has some already.
  functorch::initAndPushDynamicLayer(
      functorch::TransformType::Vmap,
      c10::SymInt(7),
      functorch::RandomnessType::Error);
  const auto y = program.forward({a, b});
  functorch::popDynamicLayerAndDeleteMetadata();
  EXPECT_TRUE(torch::allclose(
      y.at(0), torch::einsum("ijk,ik->ji", {a, b}), 1e-5, 1e-6));
}

TEST_F(Vmap, DrawsAsItSays) {
  const Tensor x = torch::zeros({3});
  const Tensor same = load(noisy("same")).forward({x}).at(0);
  EXPECT_TRUE(torch::equal(same[0], same[1]));
  const Tensor own = load(noisy("different")).forward({x}).at(0);
  EXPECT_FALSE(torch::equal(own[0], own[1]));
}

TEST_F(Vmap, LeavesNoLevelWhenItFails) {
  auto program = load(noisy("error"));
  EXPECT_THAT(
      error_of(
          ErrorKind::program, [&] { program.forward({torch::zeros({3})}); }),
      AllOf(HasSubstr("node 'noise'"), HasSubstr("random")));
  EXPECT_FALSE(has_level());
  const Tensor x = torch::randn({2, 4});
  EXPECT_TRUE(torch::allclose(
      load(of_rows()).forward({x}).at(0),
      torch::linear(x, weight_, bias_),
      1e-5,
      1e-6));
}

TEST_F(Vmap, IsRefusedWhereItDoesNotClose) {
  ProgramBuilder open_one;
  open_one.input("x", at::kFloat, {3});
  open(open_one.graph, integer(3));
  enter(open_one.graph, "x", 0, 2, "row");
  open_one.output("x");
  EXPECT_THAT(
      refused(open_one),
      AllOf(
          HasSubstr("never closed"),
          HasSubstr("node 'row'"),
          HasSubstr("not one of the 1 that torch.vmap has opened")));
  ProgramBuilder closed;
  closed.input("x", at::kFloat, {3}).output("x");
  close(closed.graph);
  EXPECT_THAT(refused(closed), HasSubstr("closes a torch.vmap"));
  EXPECT_THAT(refused(noisy("some")), HasSubstr("randomness"));
  ProgramBuilder other;
  other.input("x", at::kFloat, {3});
  other.graph.node(predispatch + "_jvp_increment_nesting", {}, {});
  other.output("x");
  EXPECT_THAT(
      refused(other),
      AllOf(HasSubstr("_jvp_increment_nesting"), HasSubstr("only torch.vmap")));
}

// The factors run inside the level too, whatever the method.
TEST_F(Vmap, RunsAdaptersOnEachRow) {
  auto program = load(of_rows());
  const Tensor x = torch::randn({5, 4});
  for (const bool dora : {false, true}) {
    peft::LoraConfig config;
    config.r = 2;
    config.lora_alpha = 3;
    config.use_dora = dora;
    config.target_modules = {"layer"};
    auto adapters = peft::inject_adapter_in_model(config, program);
    randomise(adapters.trainable_parameters());
    const auto state = peft::get_peft_model_state_dict(program);
    const Tensor y = program.forward({x}).at(0);
    const Tensor& a = state["layer.lora_A.weight"];
    Tensor w = weight_ + 1.5 * state["layer.lora_B.weight"].mm(a);
    if (dora) {
      const Tensor norm = torch::linalg_norm(w, std::nullopt, {1}, true);
      w = state["layer.lora_magnitude_vector"].unsqueeze(1) * w / norm.detach();
    }
    const Tensor expected = torch::linear(x, w, bias_);
    EXPECT_TRUE(torch::allclose(y, expected, 1e-4, 1e-5));
    const auto ours = torch::autograd::grad({y.square().sum()}, {a});
    const auto theirs = torch::autograd::grad({expected.square().sum()}, {a});
    EXPECT_TRUE(torch::allclose(ours[0], theirs[0], 1e-3, 1e-4));
    adapters.merge_adapter();
    EXPECT_TRUE(
        torch::allclose(program.forward({x}).at(0), expected, 1e-4, 1e-5));
    adapters.unload();
  }
}

TEST_F(Vmap, RefusesAMixedBatch) {
  auto program = load(of_rows());
  peft::LoraConfig config;
  config.target_modules = {"layer"};
  auto adapters = peft::inject_adapter_in_model(config, program, "a");
  const peft::BatchAdapters batch(adapters, {"a", "__base__"});
  EXPECT_THAT(
      error_of(
          ErrorKind::program, [&] { program.forward({torch::ones({2, 4})}); }),
      AllOf(HasSubstr("'layer'"), HasSubstr("torch.vmap")));
  EXPECT_FALSE(has_level());
}

// x @ w for each w of a stack [2, 4, 3], which is what has the adapter.
TEST_F(Vmap, RunsOnEachMatrixOfAnAdaptedStack) {
  ProgramBuilder builder;
  const Tensor stack = torch::randn({2, 4, 3});
  builder.parameter("experts.w", stack)
      .module("experts")
      .input("x", at::kFloat, {5, 4});
  open(builder.graph, integer(2));
  enter(builder.graph, "p_experts_w", 0, 1, "w");
  builder.graph.node(
      aten + "matmul.default",
      {{"self", value("x")}, {"other", value("w")}},
      {"y"});
  leave(builder.graph, "y", 1, integer(2), 0, "z");
  close(builder.graph);
  builder.output("z");
  auto program = load(builder);
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.target_parameters = {"experts.w"};
  auto adapters = peft::inject_adapter_in_model(config, program);
  randomise(adapters.trainable_parameters());
  const Tensor x = torch::randn({5, 4});
  const Tensor w = peft::get_base_model_state_dict(
      program, peft::BaseValues::merged)["experts.w"];
  EXPECT_FALSE(torch::allclose(w, stack));
  EXPECT_TRUE(torch::allclose(
      program.forward({x}).at(0), torch::matmul(x, w), 1e-4, 1e-5));
}

// CorDA reads what a layer is given: hidden rows are rows.
TEST_F(Vmap, ShowsHiddenRowsToAPassOverData) {
  auto program = load(of_rows());
  torch::nn::Sequential same;
  same->push_back("layer", torch::nn::Linear(4, 3));
  peft::LoraConfig config;
  config.init_lora_weights = "corda";
  config.target_modules = {"layer"};
  const Tensor x = torch::randn({5, 4});
  const auto ours =
      peft::preprocess_corda(config, program, [&] { program.forward({x}); });
  const auto theirs =
      peft::preprocess_corda(config, *same, [&] { same->forward(x); });
  EXPECT_TRUE(torch::allclose(ours["layer"], theirs["layer"], 1e-5, 1e-6));
}

}  // namespace
}  // namespace peft_test
