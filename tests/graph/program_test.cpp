// SPDX-License-Identifier: Apache-2.0
// Programs built node by node; what they must give is what the same operators
// give when called here, or is derived beside the assertion.
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/error_of.h"
#include "support/program_builder.h"
#include "support/temp_folder.h"

namespace peft_test {
namespace {

using peft::ErrorKind;
using peft::ExportedProgram;
using testing::AllOf;
using testing::HasSubstr;
using torch::Tensor;

const std::string aten = "torch.ops.aten.";
const std::string sub = "torch.ops.higher_order.";

class Programs : public testing::Test {
 protected:
  ExportedProgram load(const ProgramBuilder& builder) {
    const auto path = folder_ / (std::to_string(count_++) + ".pt2");
    builder.write(path);
    return ExportedProgram::load(path);
  }

  // x [batch, 4] -> dropout(linear(x)) with a batch of any size from 2 to 8.
  static ProgramBuilder linear_and_dropout(bool training = true) {
    ProgramBuilder builder;
    builder.parameter("layer.weight", torch::randn({3, 4}))
        .parameter("layer.bias", torch::randn({3}))
        .input("x", at::kFloat, {"s0", 4})
        .range("s0", 3, 8)
        .module("layer");
    builder.graph.node(
        aten + "linear.default",
        {{"input", value("x")},
         {"weight", value("p_layer_weight")},
         {"bias", value("p_layer_bias")}},
        {"y"},
        "layer,torch.nn.modules.linear.Linear");
    builder.graph.node(
        aten + "dropout.default",
        {{"input", value("y")}, {"p", number(0.5)}, {"train", flag(training)}},
        {"z"});
    builder.output("z");
    return builder;
  }

  TempFolder folder_;
  int count_ = 0;
};

TEST_F(Programs, RunOperatorsOnNamedWeights) {
  auto program = load(linear_and_dropout());
  program.eval();
  const Tensor x = torch::randn({5, 4});
  const auto parameters = program.named_parameters();
  ASSERT_THAT(
      parameters.keys(), testing::ElementsAre("layer.weight", "layer.bias"));
  EXPECT_TRUE(torch::equal(
      program.forward({x}).at(0),
      torch::linear(x, parameters["layer.weight"], parameters["layer.bias"])));
  EXPECT_EQ(program.inputs().at(0).shape, "[s0, 4]");
}

TEST_F(Programs, TrainAndEvalSwitchWhatWasExportedInTrainingMode) {
  auto program = load(linear_and_dropout());
  EXPECT_TRUE(program.is_training());
  const Tensor x = torch::randn({8, 4});
  program.eval();
  const Tensor plain = program.forward({x}).at(0);
  program.train();
  torch::manual_seed(1);
  const Tensor dropped = program.forward({x}).at(0);
  torch::manual_seed(1);
  EXPECT_TRUE(torch::equal(dropped, torch::dropout(plain, 0.5, true)));
}

TEST_F(Programs, SayThatAnEvalExportCannotTrainItsDropout) {
  auto program = load(linear_and_dropout(/*training=*/false));
  EXPECT_FALSE(program.is_training());
  const CollectWarnings warnings;
  program.train();
  EXPECT_THAT(warnings.all(), HasSubstr("exported in eval mode"));
}

TEST_F(Programs, CountBatchesInTrainingOnly) {
  ProgramBuilder builder;
  builder.buffer("bn.running_mean", torch::zeros({4}))
      .buffer("bn.running_var", torch::ones({4}))
      .buffer("bn.num_batches_tracked", torch::tensor(0))
      .input("x", at::kFloat, {6, 4});
  builder.graph.node(
      aten + "add_.Tensor",
      {{"self", value("p_bn_num_batches_tracked")}, {"other", integer(1)}},
      {"counted"});
  builder.graph.node(
      aten + "batch_norm.default",
      {{"input", value("x")},
       {"weight", none()},
       {"bias", none()},
       {"running_mean", value("p_bn_running_mean")},
       {"running_var", value("p_bn_running_var")},
       {"training", flag(true)},
       {"momentum", number(0.1)},
       {"eps", number(1e-5)},
       {"cudnn_enabled", flag(false)}},
      {"y"});
  builder.output("y");
  auto program = load(builder);
  torch::nn::BatchNorm1d same(torch::nn::BatchNorm1dOptions(4).affine(false));
  const Tensor x = torch::randn({6, 4});
  EXPECT_TRUE(torch::equal(program.forward({x}).at(0), same(x)));
  program.eval();
  same->eval();
  EXPECT_TRUE(torch::equal(program.forward({x}).at(0), same(x)));
  const auto buffers = program.named_buffers();
  EXPECT_EQ(buffers["bn.num_batches_tracked"].item<int64_t>(), 1);
  EXPECT_TRUE(torch::equal(buffers["bn.running_var"], same->running_var));
}

// peft_test::twice is registered in hosting/adapted_tensor_test.cpp.
TEST_F(Programs, RunOperatorsThatTheUserRegistered) {
  ProgramBuilder builder;
  builder.parameter("layer.weight", torch::randn({3, 4}))
      .input("x", at::kFloat, {5, 4});
  builder.graph.node(
      "torch.ops.peft_test.twice.default",
      {{"x", value("p_layer_weight")}},
      {"w"});
  builder.graph.node(
      aten + "linear.default",
      {{"input", value("x")}, {"weight", value("w")}},
      {"y"});
  builder.output("y");
  auto program = load(builder);
  const Tensor x = torch::randn({5, 4});
  const Tensor weight = program.named_parameters()["layer.weight"];
  EXPECT_TRUE(torch::allclose(
      program.forward({x}).at(0), torch::linear(x, 2 * weight)));
}

// y = linear(linear(x, w), w), w under two names and with a gradient g of its
// own: one step of SGD takes lr g off, not 2 lr g.
TEST_F(Programs, GiveEachTensorToAnOptimizerOnce) {
  ProgramBuilder builder;
  const Tensor weight = torch::randn({3, 3});
  builder.parameter("first.weight", weight)
      .parameter("again.weight", weight)
      .parameter("again.bias", torch::randn({3}))
      .input("x", at::kFloat, {2, 3});
  builder.graph
      .node(
          aten + "linear.default",
          {{"input", value("x")}, {"weight", value("p_first_weight")}},
          {"y"})
      .node(
          aten + "linear.default",
          {{"input", value("y")},
           {"weight", value("p_again_weight")},
           {"bias", value("p_again_bias")}},
          {"z"});
  builder.output("z");
  builder.change = [](Json&, Json& weights) {
    auto& config = weights["config"];
    config["again.weight"]["path_name"] = config["first.weight"]["path_name"];
  };
  auto program = load(builder);
  using testing::ElementsAre;
  EXPECT_THAT(
      program.named_parameters().keys(),
      testing::UnorderedElementsAre(
          "first.weight", "again.weight", "again.bias"));
  const auto once = program.named_parameters(/*remove_duplicate=*/true);
  EXPECT_THAT(once.keys(), ElementsAre("first.weight", "again.bias"));
  ASSERT_EQ(program.parameters().size(), 2);
  EXPECT_TRUE(program.parameters()[0].is_same(once["first.weight"]));
  torch::optim::SGD sgd(program.parameters(), 0.1);
  program.forward({torch::randn({2, 3})}).at(0).square().sum().backward();
  const Tensor stepped = weight - 0.1 * once["first.weight"].grad();
  sgd.step();
  EXPECT_TRUE(torch::allclose(once["first.weight"], stepped, 1e-5, 1e-6));
}

TEST_F(Programs, WriteBuffersThatTheGraphReturns) {
  ProgramBuilder builder;
  builder.buffer("total", torch::zeros({2})).input("x", at::kFloat, {2});
  builder.graph.node(
      aten + "add.Tensor",
      {{"self", value("p_total")}, {"other", value("x")}},
      {"sum"});
  builder.written_buffer("sum", "total").output("sum");
  auto program = load(builder);
  program.forward({torch::ones({2})});
  EXPECT_TRUE(torch::equal(
      program.forward({torch::ones({2})}).at(0), torch::full({2}, 2.0)));
  EXPECT_TRUE(
      torch::equal(program.named_buffers()["total"], torch::full({2}, 2.0)));
}

TEST_F(Programs, ComputeWithSizes) {
  ProgramBuilder builder;
  builder.input("x", at::kFloat, {"s0", "s1"});
  const std::string size = aten + "sym_size.int";
  builder.graph
      .size_node(size, {{"self", value("x")}, {"dim", integer(0)}}, "rows")
      .size_node(size, {{"self", value("x")}, {"dim", integer(1)}}, "columns")
      .size_node(
          "_operator.mul",
          {{"a", size_value("rows")}, {"b", size_value("columns")}},
          "all");
  builder.graph.node(
      aten + "view.default",
      {{"self", value("x")},
       {"size", {{"as_sym_ints", {{{"as_name", "all"}}}}}}},
      {"flat"});
  builder.graph.node(  // a size where a tensor is taken, and one as a float
      aten + "mul.Tensor",
      {{"self", value("flat")}, {"other", size_value("rows")}},
      {"scaled"});
  builder.output("scaled");
  auto program = load(builder);
  const Tensor x = torch::randn({3, 5});
  EXPECT_TRUE(torch::equal(program.forward({x}).at(0), x.view({15}) * 3));
}

TEST_F(Programs, NumbersBesideTensorsDoNotPromote) {
  ProgramBuilder builder;
  builder.input("x", at::kBFloat16, {3});
  builder.graph.node(
      aten + "add.Tensor",
      {{"self", value("x")}, {"other", number(0.5)}},
      {"y"});
  builder.output("y");
  const Tensor y =
      load(builder).forward({torch::ones({3}, at::kBFloat16)}).at(0);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
}

TEST_F(Programs, RunBlocksBranchesLoopsAndScans) {
  GraphBuilder twice;
  twice.input("a").node(
      aten + "mul.Tensor",
      {{"self", value("a")}, {"other", integer(2)}},
      {"r"});
  twice.output(value("r"));
  GraphBuilder less;
  less.input("a").node(
      aten + "sub.Tensor",
      {{"self", value("a")}, {"other", integer(1)}},
      {"r"});
  less.output(value("r"));
  GraphBuilder small;
  small.input("a")
      .node(aten + "abs.default", {{"self", value("a")}}, {"size"})
      .node(aten + "sum.default", {{"self", value("size")}}, {"s"})
      .node(
          aten + "lt.Scalar",
          {{"self", value("s")}, {"other", integer(100)}},
          {"r"});
  small.output(value("r"));
  GraphBuilder add;
  add.input("carry").input("row").node(
      aten + "add.Tensor",
      {{"self", value("carry")}, {"other", value("row")}},
      {"next"});
  add.output(value("next")).output(value("next"));

  ProgramBuilder builder;
  builder.input("x", at::kFloat, {"s0", 2});
  auto& graph = builder.graph;
  graph.node(aten + "sum.default", {{"self", value("x")}}, {"sum"})
      .node(
          aten + "gt.Scalar",
          {{"self", value("sum")}, {"other", integer(0)}},
          {"positive"})
      .node(
          sub + "cond",
          {{"", value("positive")},
           {"", graph_value("t", twice.json())},
           {"", graph_value("f", less.json())},
           {"", values({"x"})}},
          {"chosen"})
      .node(
          sub + "while_loop",
          {{"", graph_value("c", small.json())},
           {"", graph_value("b", twice.json())},
           {"", values({"chosen"})},
           {"", values({})}},
          {"grown"})
      .node(
          aten + "select.int",
          {{"self", value("grown")},
           {"dim", integer(0)},
           {"index", integer(0)}},
          {"first"})
      .node(
          sub + "scan",
          {{"", graph_value("s", add.json())},
           {"", values({"first"})},
           {"", values({"grown"})},
           {"", values({})}},
          {"last", "sums"})
      .node(
          sub + "wrap_with_set_grad_enabled",
          {{"", flag(false)},
           {"", graph_value("g", twice.json())},
           {"", value("sums")}},
          {"detached"});
  builder.output("detached").output("last").output("chosen");
  auto program = load(builder);

  const Tensor x = torch::ones({3, 2}).requires_grad_();
  // chosen = 2x (sum 12); doubled while the sum is below 100: 12 * 2^4 = 192,
  // so every element is 2 * 2^4 = 32. The scan starts with a row and adds
  // three.
  const auto outputs = program.forward({x});
  EXPECT_TRUE(torch::equal(outputs[1], torch::full({2}, 4 * 32.0)));
  EXPECT_TRUE(torch::equal(outputs[0][0], torch::full({2}, 2 * 2 * 32.0)));
  EXPECT_FALSE(outputs[0].requires_grad());
  outputs[1].sum().backward();
  // d last / d x: 32 for each of the rows, and the first row twice.
  EXPECT_TRUE(torch::equal(x.grad()[0], torch::full({2}, 64.0)));
  EXPECT_TRUE(torch::equal(x.grad()[1], torch::full({2}, 32.0)));
  EXPECT_TRUE(torch::equal(
      program.forward({-torch::ones({3, 2})})[2], torch::full({3, 2}, -2.0)));
}

TEST_F(Programs, CheckTheirInputsAndNameAllMistakes) {
  auto program = load(linear_and_dropout());
  const auto message = [&](const std::vector<Tensor>& inputs) {
    return error_of(ErrorKind::input, [&] { program.forward(inputs); });
  };
  EXPECT_THAT(message({}), AllOf(HasSubstr("0 inputs"), HasSubstr("'x'")));
  EXPECT_THAT(
      message({torch::ones({2, 4})}),
      AllOf(HasSubstr("'x'"), HasSubstr("size 2"), HasSubstr("3 to 8")));
  EXPECT_THAT(message({torch::ones({9, 4})}), HasSubstr("3 to 8"));
  EXPECT_THAT(
      message({torch::ones({3, 5}, at::kDouble)}),
      AllOf(
          HasSubstr("2 mistakes"),
          HasSubstr("is Double, the program takes Float"),
          HasSubstr("size 5 at dimension 1, where the program takes 4")));
  EXPECT_THAT(
      message({torch::ones({4})}), HasSubstr("the program takes [s0, 4]"));
  EXPECT_THAT(message({Tensor()}), HasSubstr("is a tensor in the program"));
}

TEST_F(Programs, SizesMadeOfOthersAreChecked) {
  ProgramBuilder builder;
  builder
      .input(
          "x",
          at::kFloat,
          {"Mul(Integer(2), Symbol('s0', positive=True, integer=True))"})
      .range("s0", 3, 8);
  builder.graph.node(aten + "neg.default", {{"self", value("x")}}, {"y"});
  builder.output("y");
  auto program = load(builder);
  program.forward({torch::randn({16})});
  const auto error_for = [&](int64_t size) {
    return error_of(
        ErrorKind::input, [&] { program.forward({torch::randn({size})}); });
  };
  EXPECT_THAT(error_for(7), AllOf(HasSubstr("'x'"), HasSubstr("2*s0")));
  EXPECT_THAT(error_for(40), AllOf(HasSubstr("'x'"), HasSubstr("3 to 8")));
}

TEST_F(Programs, KeysOfDictsMayBeNumbers) {
  ProgramBuilder builder;
  builder.input("x", at::kFloat, {2});
  builder.graph.node(aten + "neg.default", {{"self", value("x")}}, {"y"});
  builder.output("y");
  builder.change = [](Json& model, Json&) {
    model["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] =
        R"([1, {"type": "builtins.dict", "context": "[5]", "children_spec": )"
        R"([{"type": null, "context": null, "children_spec": []}]}])";
  };
  auto program = load(builder);
  const auto result = program.call({torch::ones({2})}).toGenericDict();
  EXPECT_EQ(result.at(5).toTensor()[0].item<float>(), -1);
}

TEST_F(Programs, SizesOfTheSameNameMustAgree) {
  ProgramBuilder builder;
  builder.input("a", at::kFloat, {"s0"})
      .input(
          "b",
          at::kFloat,
          {"Mul(Integer(2), Symbol('s0', positive=True, integer=True))"});
  builder.graph.node(
      aten + "cat.default",
      {{"tensors", values({"a", "b"})}, {"dim", integer(0)}},
      {"y"});
  builder.output("y");
  auto program = load(builder);
  EXPECT_EQ(program.forward({torch::ones(3), torch::ones(6)})[0].size(0), 9);
  EXPECT_THAT(
      error_of(
          ErrorKind::input,
          [&] { program.forward({torch::ones(3), torch::ones(5)}); }),
      AllOf(HasSubstr("'b' has size 5"), HasSubstr("takes 6 (2*s0)")));
}

TEST_F(Programs, AreCalledByPositionOrName) {
  auto builder = linear_and_dropout();
  builder.fixed_input("scale", number(2.5)).fixed_input("mask", none());
  auto program = load(builder);
  program.eval();
  const Tensor x = torch::randn({4, 4});
  const Tensor y = program.forward({x}).at(0);
  EXPECT_TRUE(torch::equal(program.call({x}).toTensor(), y));
  EXPECT_TRUE(torch::equal(program.call({}, {{"x", x}}).toTensor(), y));
  EXPECT_TRUE(
      torch::equal(program.call({x, 2.5}, {{"mask", {}}}).toTensor(), y));
  const auto message = [&](const std::vector<c10::IValue>& arguments,
                           const std::map<std::string, c10::IValue>& named) {
    return error_of(ErrorKind::input, [&] { program.call(arguments, named); });
  };
  EXPECT_THAT(message({x, 3.0}, {}), HasSubstr("fixed by export to 2.5"));
  EXPECT_THAT(message({}, {}), HasSubstr("'x' is missing"));
  EXPECT_THAT(
      message({x}, {{"x", x}, {"masks", x}}),
      AllOf(
          HasSubstr("by position and by name"),
          HasSubstr("no argument 'masks' (did you mean 'mask'?)")));
}

TEST_F(Programs, NameTheNodeThatFails) {
  ProgramBuilder builder;
  builder.input("x", at::kFloat, {"s0", "s1"});
  builder.graph.node(
      aten + "reshape.default",
      {{"self", value("x")}, {"shape", integers({7, 7})}},
      {"shaped"},
      "encoder.view,M");
  builder.output("shaped");
  auto program = load(builder);
  EXPECT_THAT(
      error_of(
          ErrorKind::program, [&] { program.forward({torch::ones({2, 3})}); }),
      AllOf(
          HasSubstr("node 'shaped' (aten.reshape.default)"),
          HasSubstr("'encoder.view'"),
          HasSubstr("File \"model.py\", line 7"),
          HasSubstr("invalid for input of size 6")));
}

TEST_F(Programs, RefuseAllThatTheyCannotRunAtOnce) {
  auto builder = linear_and_dropout();
  builder.graph.node("torch.ops.mylib.magic.default", {}, {"a"});
  builder.graph.node("math.gamma", {}, {"b"});
  builder.graph.node(sub + "flex_attention", {}, {"c"});
  builder.graph.node(
      aten + "relu.default", {{"self", {{"as_future", 1}}}}, {"d"});
  EXPECT_THAT(
      error_of(ErrorKind::program, [&] { load(builder); }),
      AllOf(
          HasSubstr("4 mistakes"),
          HasSubstr("mylib.magic"),
          HasSubstr("load the library first"),
          HasSubstr("math.gamma"),
          HasSubstr("flex_attention"),
          HasSubstr("'as_future'"),
          HasSubstr("line 7")));
}

TEST_F(Programs, MoveToAnotherDtypeWithTheirGraph) {
  auto builder = linear_and_dropout();
  builder.graph.node(
      aten + "to.dtype",
      {{"self", value("z")}, {"dtype", dtype_value(at::kFloat)}},
      {"same"});
  builder.graph.node(
      aten + "_assert_tensor_metadata.default",
      {{"a", value("same")}, {"dtype", dtype_value(at::kFloat)}},
      {});
  builder.output("same");
  auto program = load(builder);
  program.eval();
  const Tensor x = torch::randn({4, 4});
  const Tensor y = program.forward({x})[1];
  program.to(at::kDouble);
  const Tensor exact = program.forward({x.to(at::kDouble)})[1];
  EXPECT_EQ(exact.scalar_type(), at::kDouble);
  EXPECT_TRUE(torch::allclose(exact, y.to(at::kDouble), 1e-5, 1e-6));
  EXPECT_THAT(
      error_of(ErrorKind::state, [&] { program.save(folder_ / "out.pt2"); }),
      HasSubstr("to(Float)"));
  program.to(at::kFloat);
  program.save(folder_ / "out.pt2");
}

TEST_F(Programs, KeepWhatTheyAskForInAnotherDtype) {
  auto builder = linear_and_dropout();
  builder.buffer("steps", torch::ones({3}, at::kDouble));
  builder.graph.node(
      aten + "_assert_tensor_metadata.default",
      {{"a", value(weight_value("steps"))},
       {"dtype", dtype_value(at::kDouble)}},
      {});
  builder.graph.node(
      aten + "to.dtype",
      {{"self", value("z")}, {"dtype", dtype_value(at::kDouble)}},
      {"precise"});
  builder.output("precise");
  auto program = load(builder);
  program.eval();
  const Tensor x = torch::randn({4, 4});
  program.to(at::kBFloat16);
  const auto y = program.forward({x.to(at::kBFloat16)});
  EXPECT_EQ(y[0].scalar_type(), at::kBFloat16);
  EXPECT_EQ(y[1].scalar_type(), at::kDouble);
  program.to(at::kDouble);
  program.to(at::kFloat);
  const auto z = program.forward({x});
  EXPECT_EQ(z[0].scalar_type(), at::kFloat);
  EXPECT_EQ(z[1].scalar_type(), at::kDouble);
}

TEST_F(Programs, SaveTheirPresentWeights) {
  auto program = load(linear_and_dropout());
  program.eval();
  {
    const torch::NoGradGuard no_grad;
    program.named_parameters()["layer.weight"].mul_(3);
  }
  const Tensor x = torch::randn({4, 4});
  const Tensor y = program.forward({x})[0];
  program.save(folder_ / "out.pt2");
  auto loaded = ExportedProgram::load(folder_ / "out.pt2");
  loaded.eval();
  EXPECT_TRUE(torch::equal(loaded.forward({x})[0], y));
  program.save(folder_ / "out.pt2");  // over a file that is mapped
  EXPECT_TRUE(torch::equal(loaded.forward({x})[0], y));
}

TEST_F(Programs, WarnOfAnInputThatNothingReads) {
  auto builder = linear_and_dropout();
  builder.input("mask", at::kFloat, {"s0"});
  builder.graph.size_node(
      aten + "sym_size.int",
      {{"self", value("mask")}, {"dim", integer(0)}},
      "rows");
  const CollectWarnings warnings;
  load(builder);
  EXPECT_THAT(
      warnings.all(),
      AllOf(HasSubstr("'mask'"), HasSubstr("a tensor for each")));
}

TEST_F(Programs, RunInSeveralThreadsAtOnce) {
  auto program = load(linear_and_dropout());
  program.eval();
  std::vector<Tensor> inputs;
  std::vector<Tensor> expected;
  for (int i = 0; i < 4; ++i) {
    inputs.push_back(torch::randn({3 + i, 4}));
    expected.push_back(program.forward({inputs.back()})[0]);
  }
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 200; ++round) {
        wrong[i] += !torch::equal(program.forward({inputs[i]})[0], expected[i]);
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_THAT(wrong, testing::Each(0));
}

}  // namespace
}  // namespace peft_test
