// SPDX-License-Identifier: Apache-2.0
// The dry run of mixed batches. The oracle is the mixed batch itself: it fails
// where an obstacle is named, and runs where none is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/message_of.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using torch::Tensor;

// Layers side by side, each read by its own part of forward.
struct KindsImpl : nn::Module {
  Tensor run(const std::string& layer) {
    const Tensor x = torch::ones({2, 3, 6});
    if (layer == "linear") {
      return linear(x);
    }
    if (layer == "table") {
      return table(torch::ones({2, 3}, torch::kLong));
    }
    if (layer == "conv") {
      return conv(torch::ones({2, 6, 5}));
    }
    if (layer == "attention") {
      return std::get<0>(attention(x, x, x));
    }
    if (layer == "norm") {
      return norm(x);
    }
    if (layer == "lstm") {
      return std::get<0>(lstm(x));
    }
    if (layer == "cell") {
      return cell(x.select(1, 0));
    }
    if (layer == "both") {
      return both(x, x);
    }
    return up(torch::ones({2, 6, 5}));
  }

  nn::Linear linear = register_module("linear", nn::Linear(6, 4));
  nn::Embedding table = register_module("table", nn::Embedding(7, 4));
  nn::Conv1d conv =
      register_module("conv", nn::Conv1d(nn::Conv1dOptions(6, 4, 3)));
  nn::MultiheadAttention attention = register_module(
      "attention",
      nn::MultiheadAttention(nn::MultiheadAttentionOptions(6, 2)));
  nn::LayerNorm norm =
      register_module("norm", nn::LayerNorm(nn::LayerNormOptions({6})));
  nn::LSTM lstm = register_module("lstm", nn::LSTM(6, 4));
  nn::GRUCell cell = register_module("cell", nn::GRUCell(6, 4));
  nn::Bilinear both = register_module("both", nn::Bilinear(6, 6, 4));
  nn::ConvTranspose1d up = register_module(
      "up",
      nn::ConvTranspose1d(nn::ConvTranspose1dOptions(6, 4, 3)));
};
TORCH_MODULE(Kinds);

struct Case {
  const char* layer;
  bool as_parameter;  // else as a target, or trained whole
  bool trained_whole;
  bool runs;
};

class Obstacles : public testing::TestWithParam<Case> {};

TEST_P(Obstacles, AreNamedWhereAMixedBatchFails) {
  torch::manual_seed(0);
  const Case& c = GetParam();
  Kinds model;
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.target_modules = {std::string(c.layer)};
  if (c.trained_whole) {
    config.target_modules = "dummy-target-modules";
    config.modules_to_save = {c.layer};
  } else if (c.as_parameter) {
    config.target_modules = {};
    config.target_parameters = {std::string(c.layer) + ".weight"};
  }
  auto adapters = peft::inject_adapter_in_model(config, *model, "a");
  randomise(adapters.parameters("a"));
  // An attention has positions before the batch, whatever the model's order.
  const bool positions_first = std::string(c.layer) == "attention";
  const auto rows = positions_first
      ? std::vector<std::string>{"a", "__base__", "a"}
      : std::vector<std::string>{"a", "__base__"};
  const Tensor with_adapter = c.runs ? model->run(c.layer) : Tensor();
  Tensor plain;
  {
    const peft::DisableAdapters none(adapters);
    plain = model->run(c.layer);
  }
  const peft::BatchAdapters scope(adapters, rows);
  const auto obstacles = peft::batch_obstacles(adapters, {"a"});
  if (c.runs) {
    EXPECT_THAT(obstacles, IsEmpty());
    const Tensor mixed = model->run(c.layer);
    const std::int64_t dim = positions_first ? 1 : 0;
    EXPECT_FALSE(torch::allclose(plain, with_adapter, 1e-3, 1e-4));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto row = static_cast<std::int64_t>(i);
      EXPECT_TRUE(torch::allclose(
          mixed.select(dim, row),
          (rows[i] == "a" ? with_adapter : plain).select(dim, row),
          1e-4,
          1e-5))
          << c.layer << " row " << i;
    }
    return;
  }
  ASSERT_FALSE(obstacles.empty());
  for (const auto& obstacle : obstacles) {
    EXPECT_EQ(obstacle.adapter, "a");
    EXPECT_THAT(obstacle.weight, testing::StartsWith(c.layer));
    EXPECT_NE(obstacle.reason, "");
  }
  EXPECT_THAT(
      message_of([&] { model->run(c.layer); }),
      HasSubstr("a mixed batch (BatchAdapters) has adapters on"));
}
INSTANTIATE_TEST_SUITE_P(
    Kinds,
    Obstacles,
    testing::Values(
        Case{"linear", false, false, true},
        Case{"table", false, false, true},
        Case{"conv", false, false, true},
        Case{"attention", false, false, true},
        Case{"lstm", false, false, false},
        Case{"cell", false, false, false},
        Case{"linear", false, true, true},
        Case{"table", false, true, true},
        Case{"conv", false, true, true},
        Case{"attention", false, true, true},
        Case{"norm", false, true, false},
        Case{"lstm", false, true, false},
        Case{"both", false, true, false},
        Case{"up", false, true, false},
        Case{"linear", true, false, true},
        Case{"table", true, false, false},
        Case{"conv", true, false, false},
        Case{"both", true, false, false}),
    [](const auto& instance) {
      return std::string(instance.param.layer) +
          (instance.param.trained_whole      ? "_whole"
               : instance.param.as_parameter ? "_parameter"
                                             : "");
    });

TEST(BatchObstacles, AreThoseOfTheAdaptersThatAreNamed) {
  Kinds model;
  peft::LoraConfig config;
  config.target_modules = {"linear"};
  peft::inject_adapter_in_model(config, *model, "plain");
  config.modules_to_save = {"norm"};
  auto adapters = peft::inject_adapter_in_model(config, *model, "whole");
  EXPECT_THAT(peft::batch_obstacles(adapters, {"plain"}), IsEmpty());
  std::vector<std::string> weights;
  for (const auto& obstacle : peft::batch_obstacles(adapters)) {
    EXPECT_EQ(obstacle.adapter, "whole");
    EXPECT_THAT(obstacle.reason, HasSubstr("of a LayerNorm"));
    weights.push_back(obstacle.weight);
  }
  EXPECT_THAT(weights, ElementsAre("norm.weight", "norm.bias"));
  EXPECT_THAT(
      message_of([&] { peft::batch_obstacles(adapters, {"plan"}); }),
      HasSubstr("did you mean 'plain'?"));
}

}  // namespace
}  // namespace peft_test
