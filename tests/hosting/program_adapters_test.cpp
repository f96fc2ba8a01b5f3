// SPDX-License-Identifier: Apache-2.0
// What exported programs make special for adapters: modules that were one
// object in Python, moving, modes.
#include <atomic>
#include <thread>

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

using peft::ErrorKind;
using peft::ExportedProgram;
using testing::ElementsAre;
using testing::HasSubstr;
using torch::Tensor;

class ProgramAdapters : public testing::Test {
 protected:
  ExportedProgram load(const ProgramBuilder& builder) {
    const auto path = folder_ / (std::to_string(count_++) + ".pt2");
    builder.write(path);
    return ExportedProgram::load(path);
  }

  static void add_linear(
      ProgramBuilder& builder,
      const std::string& layer,
      const std::string& from,
      const std::string& to) {
    builder.graph.node(
        "torch.ops.aten.linear.default",
        {{"input", value(from)},
         {"weight", value("p_" + layer + "_weight")},
         {"bias", value("p_" + layer + "_bias")}},
        {to},
        layer + ",torch.nn.modules.linear.Linear");
  }

  // x [2, 4] -> head(body(x)).
  static ProgramBuilder two_layers() {
    ProgramBuilder builder;
    for (const std::string layer : {"body", "head"}) {
      builder.parameter(layer + ".weight", torch::randn({4, 4}))
          .parameter(layer + ".bias", torch::randn({4}))
          .module(layer);
    }
    builder.input("x", at::kFloat, {2, 4});
    add_linear(builder, "body", "x", "y");
    add_linear(builder, "head", "y", "z");
    builder.output("z");
    return builder;
  }

  // The same with every tensor of "head" that of "body", as of one module
  // under two names.
  ProgramBuilder one_layer_twice() {
    auto builder = two_layers();
    builder.change = [](Json&, Json& weights) {
      auto& config = weights["config"];
      for (const std::string name : {"weight", "bias"}) {
        config["head." + name]["path_name"] =
            config["body." + name]["path_name"];
      }
    };
    return builder;
  }

  TempFolder folder_;
  int count_ = 0;
};

TEST_F(ProgramAdapters, TakeAdaptersAndSaveThemMerged) {
  auto program = load(two_layers());
  program.eval();
  const Tensor x = torch::randn({2, 4});
  const Tensor before = program.forward({x})[0];
  const Tensor base = program.named_parameters()["body.weight"];
  const Tensor copy = base.detach().clone();
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.target_modules = "all-linear";
  auto adapters = peft::inject_adapter_in_model(config, program);
  EXPECT_TRUE(torch::equal(program.forward({x})[0], before));
  {
    const torch::NoGradGuard no_grad;
    adapters.parameters("default")[1].normal_();
  }
  const Tensor after = program.forward({x})[0];
  EXPECT_FALSE(torch::allclose(after, before));
  program.save(folder_ / "base.pt2");
  program.save_merged(folder_ / "merged.pt2");
  auto plain = ExportedProgram::load(folder_ / "base.pt2");
  auto merged = ExportedProgram::load(folder_ / "merged.pt2");
  plain.eval();
  merged.eval();
  EXPECT_TRUE(torch::equal(plain.forward({x})[0], before));
  EXPECT_TRUE(torch::allclose(merged.forward({x})[0], after, 1e-5, 1e-6));
  adapters.unload();
  EXPECT_TRUE(torch::equal(program.forward({x})[0], before));
  EXPECT_TRUE(program.named_parameters()["body.weight"].is_same(base));
  EXPECT_TRUE(torch::equal(base, copy));
}

TEST_F(ProgramAdapters, AreMergedIntoTheProgram) {
  auto program = load(two_layers());
  const Tensor x = torch::randn({2, 4});
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.target_modules = "all-linear";
  config.init_lora_weights = false;
  auto adapters = peft::inject_adapter_in_model(config, program);
  const Tensor adapted = program.forward({x})[0];
  adapters.merge_adapter();
  const Tensor merged = program.forward({x})[0];
  EXPECT_TRUE(torch::allclose(merged, adapted, 1e-4, 1e-5));
  program.save_merged(folder_ / "while_merged.pt2");
  peft::merge_and_unload(program);
  EXPECT_TRUE(torch::equal(program.forward({x})[0], merged));
  program.save(folder_ / "after.pt2");
  for (const auto* file : {"while_merged.pt2", "after.pt2"}) {
    const auto loaded = ExportedProgram::load(folder_ / file);
    EXPECT_TRUE(torch::equal(loaded.forward({x})[0], merged)) << file;
  }
}

// Its own code is what runs, so that one choice serves from start to end.
TEST_F(ProgramAdapters, ARunSeesOneChoice) {
  auto program = load(two_layers());
  const Tensor x = torch::randn({2, 4});
  peft::LoraConfig config;
  config.target_modules = "all-linear";
  config.init_lora_weights = false;
  config.inference_mode = true;
  auto adapters = peft::inject_adapter_in_model(config, program, "a");
  const Tensor a = program.forward({x})[0];
  peft::inject_adapter_in_model(config, program, "b");
  const Tensor b = program.forward({x})[0];
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (int i = 0; !done; ++i) {
      adapters.set_adapter(i % 2 ? "a" : "b");
    }
  });
  int wrong = 0;
  for (int i = 0; i < 2000; ++i) {
    const Tensor y = program.forward({x})[0];
    wrong += !torch::equal(y, a) && !torch::equal(y, b);
  }
  done = true;
  writer.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(ProgramAdapters, TiedWeightsAreAdaptedWhereTargeted) {
  ProgramBuilder builder;
  const Tensor table = torch::randn({5, 3});
  builder.parameter("embed.weight", table)
      .parameter("head.weight", table)
      .module("embed")
      .module("head")
      .input("ids", at::kLong, {4});
  builder.graph.node(  // export names one of the two for both
      "torch.ops.aten.embedding.default",
      {{"weight", value("p_head_weight")}, {"indices", value("ids")}},
      {"x"},
      "embed,torch.nn.modules.sparse.Embedding");
  builder.graph.node(
      "torch.ops.aten.linear.default",
      {{"input", value("x")}, {"weight", value("p_head_weight")}},
      {"y"},
      "head,torch.nn.modules.linear.Linear");
  builder.output("x").output("y");
  builder.change = [](Json&, Json& weights) {
    weights["config"]["head.weight"]["path_name"] =
        weights["config"]["embed.weight"]["path_name"];
  };
  auto program = load(builder);
  peft::LoraConfig config;
  config.init_lora_weights = false;
  config.target_modules = {"head"};
  const Tensor ids = torch::tensor({0, 4, 2, 2});
  const auto before = program.forward({ids});
  const CollectWarnings warnings;
  peft::inject_adapter_in_model(config, program);
  const auto after = program.forward({ids});
  EXPECT_TRUE(torch::equal(after[0], before[0]));
  EXPECT_FALSE(torch::allclose(after[1], before[1]));
  EXPECT_THAT(
      warnings.all(), HasSubstr("embed.weight"));  // says that it is shared
}

TEST_F(ProgramAdapters, GoWithTheirAdapters) {
  std::weak_ptr<peft::detail::ModelState> state;
  {
    auto program = load(two_layers());
    peft::LoraConfig config;
    config.target_modules = "all-linear";
    state = peft::inject_adapter_in_model(config, program).state();
    program.forward({torch::ones({2, 4})}).at(0).sum().backward();
    EXPECT_FALSE(state.expired());
  }
  EXPECT_TRUE(state.expired());
}

TEST_F(ProgramAdapters, CopiesOfSavedModulesMoveWithTheProgram) {
  auto program = load(two_layers());
  peft::LoraConfig config;
  config.target_modules = {"body"};
  config.modules_to_save = {"head"};
  auto adapters = peft::inject_adapter_in_model(config, program);
  randomise(adapters.parameters("default"));
  const Tensor x = torch::randn({2, 4});
  const Tensor before = program.forward({x}).at(0);
  program.to(torch::kFloat64);
  EXPECT_TRUE(torch::allclose(
      program.forward({x.to(torch::kFloat64)}).at(0),
      before.to(torch::kFloat64),
      1e-5,
      1e-5));
  program.to(torch::kFloat32);
  program.to(torch::kCPU);
  EXPECT_TRUE(torch::allclose(program.forward({x}).at(0), before, 1e-5, 1e-5));
}

TEST_F(ProgramAdapters, OneModuleUnderTwoNamesHasOneAdapterThatActsAtBoth) {
  auto program = load(one_layer_twice());
  peft::LoraConfig config;
  config.target_modules = "all-linear";
  auto adapters = peft::inject_adapter_in_model(config, program);
  randomise(adapters.parameters("default"));
  EXPECT_THAT(
      peft::get_peft_model_state_dict(program).keys(),
      ElementsAre("body.lora_A.weight", "body.lora_B.weight"));
  const auto own = program.named_parameters();
  const auto factors = adapters.parameters("default");
  const Tensor w = own["body.weight"] + factors[1].mm(factors[0]);
  const Tensor x = torch::randn({2, 4});
  const Tensor y = torch::linear(x, w, own["body.bias"]);
  EXPECT_TRUE(torch::allclose(
      program.forward({x}).at(0),
      torch::linear(y, w, own["body.bias"]),
      1e-5,
      1e-5));
  adapters.unload();
  const Tensor plain = torch::linear(x, own["body.weight"], own["body.bias"]);
  EXPECT_TRUE(torch::equal(
      program.forward({x}).at(0),
      torch::linear(plain, own["body.weight"], own["body.bias"])));
}

TEST_F(ProgramAdapters, AModuleThatIsNeverCalledIsOfItsTiedModulesKind) {
  ProgramBuilder builder;
  builder.parameter("shared.weight", torch::randn({5, 4}))
      .parameter("encoder.tokens.weight", torch::randn({5, 4}))
      .module("shared")
      .module("encoder.tokens")
      .input("x", at::kLong, {3});
  builder.graph.node(
      "torch.ops.aten.embedding.default",
      {{"weight", value("p_encoder_tokens_weight")}, {"indices", value("x")}},
      {"y"},
      "encoder.tokens,torch.nn.modules.sparse.Embedding");
  builder.output("y");
  builder.change = [](Json&, Json& weights) {
    auto& config = weights["config"];
    config["shared.weight"]["path_name"] =
        config["encoder.tokens.weight"]["path_name"];
  };
  auto program = load(builder);
  peft::LoraConfig config;
  config.r = 2;
  config.target_modules = {"shared"};
  peft::inject_adapter_in_model(config, program);
  EXPECT_THAT(
      peft::get_peft_model_state_dict(program).keys(),
      ElementsAre("shared.lora_embedding_A", "shared.lora_embedding_B"));
}

TEST_F(ProgramAdapters, StartInEvalModeWhenTheGraphDoesNotSay) {
  auto program = load(two_layers());
  EXPECT_FALSE(program.is_training());
  peft::LoraConfig config;
  config.target_modules = {"body"};
  config.lora_dropout = 0.5;
  auto adapters = peft::inject_adapter_in_model(config, program);
  randomise(adapters.parameters("default"));
  const Tensor x = torch::randn({2, 4});
  EXPECT_TRUE(
      torch::equal(program.forward({x}).at(0), program.forward({x}).at(0)));
  program.train();
  EXPECT_FALSE(
      torch::equal(program.forward({x}).at(0), program.forward({x}).at(0)));
}

TEST_F(ProgramAdapters, AreMergedInTheModeThatTheProgramIsIn) {
  auto builder = two_layers();
  builder.graph.node(
      "torch.ops.aten.dropout.default",
      {{"input", value("z")}, {"p", number(0.5)}, {"train", flag(true)}},
      {"dropped"});
  builder.output("dropped");
  auto program = load(builder);
  ASSERT_TRUE(program.is_training());
  program.save_merged(folder_ / "training.pt2");
  program.eval();
  program.save_merged(folder_ / "eval.pt2");
  EXPECT_TRUE(ExportedProgram::load(folder_ / "training.pt2").is_training());
  const auto merged = ExportedProgram::load(folder_ / "eval.pt2");
  EXPECT_FALSE(merged.is_training());
  const Tensor x = torch::randn({2, 4});
  EXPECT_TRUE(
      torch::equal(merged.forward({x}).at(1), program.forward({x}).at(1)));
}

TEST_F(ProgramAdapters, LayersWithoutAFormForAdaptersAreNamed) {
  ProgramBuilder builder;
  builder.parameter("up.weight", torch::randn({4, 3, 2}))
      .module("up")
      .input("x", at::kFloat, {1, 4, 5});
  builder.graph.node(
      "torch.ops.aten.conv_transpose1d.default",
      {{"input", value("x")}, {"weight", value("p_up_weight")}},
      {"y"},
      "up,torch.nn.modules.conv.ConvTranspose1d");
  builder.output("y");
  auto program = load(builder);
  peft::LoraConfig config;
  config.target_modules = {"up"};
  EXPECT_THAT(
      error_of(
          ErrorKind::target,
          [&] { peft::inject_adapter_in_model(config, program); }),
      HasSubstr("ConvTranspose1d"));
}

TEST_F(ProgramAdapters, CannotBeClonedAndSaySo) {
  auto program = load(two_layers());
  EXPECT_THAT(
      error_of(
          ErrorKind::unsupported,
          [&] { peft::clone_module(program.module()); }),
      HasSubstr("copy_into"));
}

}  // namespace
}  // namespace peft_test
