// SPDX-License-Identifier: Apache-2.0
// What an exported program's layers are, where forward does not call them or
// reads their weights otherwise, and which were one object in Python.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/error_of.h"
#include "support/program_builder.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using peft::ExportedProgram;
using testing::ElementsAre;
using torch::Tensor;

class ForeignLayers : public testing::Test {
 protected:
  ExportedProgram load(const ProgramBuilder& builder) {
    builder.write(folder_ / "program.pt2");
    return ExportedProgram::load(folder_ / "program.pt2");
  }

  TempFolder folder_;
};

// x @ layer.weight and layer.weight * 2: the Linear is never called.
TEST_F(ForeignLayers, ALinearIsOneHoweverItsWeightIsRead) {
  for (const std::string op : {"matmul", "mul"}) {
    ProgramBuilder builder;
    builder.parameter("layer.weight", torch::randn({4, 3}))
        .parameter("layer.bias", torch::randn({4}))
        .module("layer")
        .input("x", at::kFloat, {4, 4});
    if (op == "matmul") {
      builder.graph.node(
          "torch.ops.aten.matmul.default",
          {{"self", value("x")}, {"other", value("p_layer_weight")}},
          {"y"});
    } else {
      builder.graph.node(
          "torch.ops.aten.mul.Tensor",
          {{"self", value("p_layer_weight")},
           {"other", value("p_layer_weight")}},
          {"y"});
    }
    builder.output("y");
    auto program = load(builder);
    peft::LoraConfig config;
    config.r = 2;
    config.lora_alpha = 3;
    config.target_modules = "all-linear";
    auto adapters = peft::inject_adapter_in_model(config, program);
    const auto state = peft::get_peft_model_state_dict(program);
    EXPECT_THAT(state["layer.lora_A.weight"].sizes(), ElementsAre(2, 3));
    EXPECT_THAT(state["layer.lora_B.weight"].sizes(), ElementsAre(4, 2));
    randomise(adapters.trainable_parameters());
    const Tensor w = program.named_parameters()["layer.weight"] +
        1.5 * state["layer.lora_B.weight"].mm(state["layer.lora_A.weight"]);
    const Tensor x = torch::randn({4, 4});
    EXPECT_TRUE(torch::allclose(
        program.forward({x}).at(0),
        op == "matmul" ? x.mm(w) : w * w,
        1e-5,
        1e-5));
  }
}

// One module without a bias, called under two names: its file has one adapter.
TEST_F(ForeignLayers, AFileTellsThatTwoLayersWereOneObject) {
  ProgramBuilder builder;
  const Tensor table = torch::randn({4, 4});
  for (const std::string layer : {"first", "again"}) {
    builder.parameter(layer + ".weight", table).module(layer);
  }
  builder.input("x", at::kFloat, {2, 4});
  const auto call =
      [&](const std::string& layer, const char* x, const char* y) {
        builder.graph.node(
            "torch.ops.aten.linear.default",
            {{"input", value(x)}, {"weight", value("p_" + layer + "_weight")}},
            {y},
            layer + ",torch.nn.modules.linear.Linear");
      };
  call("first", "x", "y");
  call("again", "y", "z");
  builder.output("z");
  builder.change = [](Json&, Json& weights) {
    auto& config = weights["config"];
    config["again.weight"]["path_name"] = config["first.weight"]["path_name"];
  };
  auto program = load(builder);
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.lora_dropout = 0.5;
  config.target_modules = {"first", "again"};
  auto adapters = peft::inject_adapter_in_model(config, program, "trained");
  EXPECT_EQ(adapters.parameters("trained").size(), 4);
  randomise(adapters.trainable_parameters());
  const TempFolder saved;
  peft::save_adapter(program, saved.path(), "trained");
  peft::StateDict one;
  for (const auto& item : peft::load_peft_weights(saved.path())) {
    if (item.key().find("first") != std::string::npos) {
      one.insert(item.key(), item.value().clone());
    }
  }
  adapters.unload();
  peft::save_safetensors(one, saved.path() / "adapter_model.safetensors");
  peft::load_adapter(program, saved.path(), "default", {.is_trainable = true});
  EXPECT_EQ(peft::adapters_of(program).trainable_parameters().size(), 2);
  const Tensor w = table + 1.5 * one[1].value().mm(one[0].value());
  const Tensor x = torch::randn({2, 4});
  program.eval();
  const Tensor y = program.forward({x}).at(0);
  EXPECT_TRUE(torch::allclose(y, x.mm(w.t()).mm(w.t()), 1e-4, 1e-5));
  // And it is saved as one again.
  peft::save_adapter(program, saved.path());
  EXPECT_EQ(peft::load_peft_weights(saved.path()).size(), 2);
}

// layer.second(layer.first(x)), Linears that share weight and bias.
class SharingLayers : public ForeignLayers {
 protected:
  SharingLayers() {
    ProgramBuilder builder;
    for (const std::string layer : {"first", "second"}) {
      builder.parameter(layer + ".weight", weight_)
          .parameter(layer + ".bias", bias_)
          .module(layer);
    }
    builder.input("x", at::kFloat, {2, 3});
    const auto call =
        [&](const std::string& layer, const char* x, const char* y) {
          builder.graph.node(
              "torch.ops.aten.linear.default",
              {{"input", value(x)},
               {"weight", value("p_" + layer + "_weight")},
               {"bias", value("p_" + layer + "_bias")}},
              {y},
              layer + ",torch.nn.modules.linear.Linear");
        };
    call("first", "x", "y");
    call("second", "y", "z");
    builder.output("z");
    builder.change = [](Json&, Json& weights) {
      auto& config = weights["config"];
      for (const std::string name : {"weight", "bias"}) {
        config["second." + name]["path_name"] =
            config["first." + name]["path_name"];
      }
    };
    program_ = std::make_unique<ExportedProgram>(load(builder));
    config_.r = 2;
    config_.lora_alpha = 3;
    config_.target_modules = {"first", "second"};
  }

  // An adapter for each layer, or the same twice.
  static peft::StateDict file(bool alike = false) {
    peft::StateDict weights;
    for (const std::string layer : {"first", "second"}) {
      for (const char* name : {".lora_A.weight", ".lora_B.weight"}) {
        const Tensor made = torch::randn(
            std::string(name) == ".lora_A.weight"
                ? std::vector<std::int64_t>{2, 3}
                : std::vector<std::int64_t>{3, 2});
        weights.insert(
            layer + name,
            alike && layer == "second"
                ? weights[std::string("first") + name].clone()
                : made);
      }
    }
    return weights;
  }

  Tensor expected(const peft::StateDict& file, const Tensor& x) const {
    Tensor y = x;
    for (const std::string layer : {"first", "second"}) {
      const Tensor w = weight_ +
          1.5 *
              file[layer + ".lora_B.weight"].mm(file[layer + ".lora_A.weight"]);
      y = torch::linear(y, w, bias_);
    }
    return y;
  }

  static void save(const peft::StateDict& weights, const TempFolder& folder) {
    peft::StateDict file;
    for (const auto& item : weights) {
      file.insert("base_model.model." + item.key(), item.value());
    }
    peft::save_safetensors(file, folder.path() / "adapter_model.safetensors");
  }

  // Writes the folder of an adapter with these weights.
  void write(const peft::StateDict& weights) {
    auto adapters = peft::inject_adapter_in_model(config_, *program_, "tmp");
    peft::save_adapter(*program_, saved_.path(), "tmp");
    adapters.unload();
    save(weights, saved_);
  }

  void expect_runs_as(const peft::StateDict& file) {
    const Tensor x = torch::randn({2, 3});
    EXPECT_TRUE(torch::allclose(
        program_->forward({x}).at(0), expected(file, x), 1e-4, 1e-4));
  }

  Tensor weight_ = torch::randn({3, 3});
  Tensor bias_ = torch::randn({3});
  peft::LoraConfig config_;
  std::unique_ptr<ExportedProgram> program_;
  TempFolder saved_;
};

TEST_F(SharingLayers, AreOneUnlessAFileTellsThemApart) {
  auto adapters = peft::inject_adapter_in_model(config_, *program_);
  EXPECT_EQ(adapters.trainable_parameters().size(), 2);
}

TEST_F(SharingLayers, AreTwoWhereAFileHasAnAdapterForEach) {
  const auto weights = file();
  write(weights);
  auto adapters = peft::load_adapter(
      *program_, saved_.path(), "default", {.is_trainable = true});
  EXPECT_EQ(adapters.trainable_parameters().size(), 4);
  expect_runs_as(weights);
  // And stay two: for what is saved, and for a second adapter.
  const TempFolder again;
  peft::save_adapter(*program_, again.path());
  EXPECT_EQ(peft::load_peft_weights(again.path()).size(), 4);
  const auto more = file();
  save(more, saved_);
  peft::load_adapter(*program_, saved_.path(), "second");
  expect_runs_as(more);
  adapters.set_adapter("default");
  expect_runs_as(weights);
  adapters.merge_adapter();
  expect_runs_as(weights);
  adapters.unload();
  peft::inject_adapter_in_model(config_, *program_);
  EXPECT_EQ(peft::adapters_of(*program_).trainable_parameters().size(), 2);
}

TEST_F(SharingLayers, AreTwoForAStateDictWithTensorsOfBoth) {
  const auto weights = file();
  peft::LoraConfig config;
  config.lora_alpha = 3;
  peft::inject_adapter_in_model(
      config, *program_, "default", {.state_dict = &weights});
  const auto report = peft::set_peft_model_state_dict(*program_, weights);
  EXPECT_TRUE(report.unexpected_keys.empty());
  EXPECT_TRUE(report.missing_keys.empty());
  expect_runs_as(weights);
}

// PEFT writes the adapter of a shared module under each of its names.
TEST_F(SharingLayers, AreOneForAFileThatSaysTheSameOfBoth) {
  const auto weights = file(/*alike=*/true);
  write(weights);
  for (const std::string name : {"default", "other"}) {
    peft::load_adapter(*program_, saved_.path(), name, {.is_trainable = true});
    auto adapters = peft::adapters_of(*program_);
    EXPECT_EQ(adapters.parameters(name).size(), 2) << name;
    expect_runs_as(weights);
  }
  peft::save_adapter(*program_, saved_.path(), "other");
  EXPECT_EQ(peft::load_peft_weights(saved_.path()).size(), 4);
}

TEST_F(SharingLayers, CannotBeTornApartUnderOtherAdapters) {
  const auto weights = file();
  write(weights);
  peft::inject_adapter_in_model(config_, *program_, "joined");
  EXPECT_THAT(
      error_of(
          peft::ErrorKind::state,
          [&] { peft::load_adapter(*program_, saved_.path()); }),
      testing::AllOf(
          testing::HasSubstr("'first'"),
          testing::HasSubstr("'second'"),
          testing::HasSubstr("load this adapter before")));
  EXPECT_EQ(peft::adapters_of(*program_).names().size(), 1);
}

// An int8 Linear: registering a class of C++ could not help a program.
TEST_F(ForeignLayers, AnIntegerLayerIsToldWhatIsTrue) {
  ProgramBuilder builder;
  builder.parameter("small.weight", torch::ones({3, 3}).to(at::kChar))
      .parameter("layer.weight", torch::randn({3, 3}))
      .module("small")
      .module("layer")
      .input("x", at::kFloat, {2, 3});
  builder.graph
      .node(
          "torch.ops.aten.to.dtype",
          {{"self", value("p_small_weight")},
           {"dtype", dtype_value(at::kFloat)}},
          {"w"},
          "small,torch.nn.modules.linear.Linear")
      .node(
          "torch.ops.aten.linear.default",
          {{"input", value("x")}, {"weight", value("w")}},
          {"y"},
          "small,torch.nn.modules.linear.Linear")
      .node(
          "torch.ops.aten.linear.default",
          {{"input", value("y")}, {"weight", value("p_layer_weight")}},
          {"z"},
          "layer,torch.nn.modules.linear.Linear");
  builder.output("z");
  auto program = load(builder);
  peft::LoraConfig config;
  config.target_modules = {"small", "layer"};
  const auto refused = [&](peft::ErrorKind kind) {
    return error_of(
        kind, [&] { peft::inject_adapter_in_model(config, program); });
  };
  const auto no_advice = testing::Not(testing::HasSubstr("register"));
  EXPECT_THAT(
      refused(peft::ErrorKind::target),
      testing::AllOf(
          testing::HasSubstr("'small' of type Linear"),
          testing::HasSubstr("its 'weight' is Char"),
          testing::HasSubstr("floating-point"),
          no_advice));
  config.target_modules = {};
  config.target_parameters = {"small.weight"};
  EXPECT_THAT(
      refused(peft::ErrorKind::target),
      testing::AllOf(
          testing::HasSubstr("small.weight"),
          testing::HasSubstr("Char"),
          no_advice));
  config.target_parameters = {"nothing"};
  EXPECT_THAT(
      refused(peft::ErrorKind::target),
      testing::AllOf(testing::HasSubstr("two or three dimensions"), no_advice));
}

}  // namespace
}  // namespace peft_test
