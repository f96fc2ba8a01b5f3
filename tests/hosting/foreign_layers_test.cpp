// SPDX-License-Identifier: Apache-2.0
// What an exported program's layers are, where forward does not call them or
// reads their weights otherwise, and which were one object in Python.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/collect_warnings.h"
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

}  // namespace
}  // namespace peft_test
