// SPDX-License-Identifier: Apache-2.0
// Whatever numbers a config or a file has, what comes out is peft::Error, and
// the model stays as it was.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "peft/peft.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using peft::AdaLoraConfig;
using peft::LoraConfig;
using torch::Tensor;

constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
const std::vector<std::int64_t> extremes = {
    std::numeric_limits<std::int64_t>::min(),
    -1,
    0,
    std::int64_t{1} << 40,
    (std::int64_t{1} << 62) - 1,
    std::int64_t{1} << 62,
    most};
const std::vector<double> extreme_reals =
    {-1e308, 1e308, 1e39, 5e-324, -0.0, std::nan(""), HUGE_VAL, -HUGE_VAL};

LoraConfig small() {
  LoraConfig config;
  config.r = 2;
  config.target_modules = {"up", "embedding"};
  return config;
}

AdaLoraConfig small_adalora() {
  AdaLoraConfig config;
  config.init_r = 3;
  config.target_r = 2;
  config.total_step = 10;
  config.target_modules = {"up"};
  return config;
}

// Each way to ask for the config: an Error, or a model that runs.
void expect_no_other_error(const peft::AdapterConfig& config) {
  for (const bool inference : {false, true}) {
    const auto given = config.clone();
    given->inference_mode = inference;
    TextModel model;
    const Tensor y = model->forward(text_ids());
    EXPECT_NO_THROW(peft::match_report(*given, *model));
    for (const bool empty : {false, true}) {
      try {
        auto adapters = peft::inject_adapter_in_model(
            *given, *model, "default", {.low_cpu_mem_usage = empty});
        if (!empty) {
          model->forward(text_ids());
        }
        adapters.unload();
      } catch (const peft::Error&) {
        EXPECT_THROW(peft::adapters_of(*model), peft::Error);
      }
      EXPECT_TRUE(torch::equal(model->forward(text_ids()), y));
    }
    try {
      peft::adapt(torch::randn({5, 6}), *given);
    } catch (const peft::Error&) {
    }
  }
}

TEST(Limits, IntegersOfLora) {
  for (const auto value : extremes) {
    SCOPED_TRACE(value);
    LoraConfig config = small();
    config.r = value;
    expect_no_other_error(config);
    config = small();
    config.rank_pattern = {{"up", value}};
    expect_no_other_error(config);
    config = small();
    config.layers_to_transform = {value};
    expect_no_other_error(config);
    config = small();
    config.trainable_token_indices = {{"embedding", {value}}};
    config.target_modules = {"up"};
    expect_no_other_error(config);
    config = small();
    config.target_modules = {"up"};
    config.alora_invocation_tokens = {{value}};
    config.qalora_group_size = value;
    expect_no_other_error(config);
    config = small();
    config.r = value;
    config.target_modules = {};
    config.target_parameters = {"up.weight"};
    expect_no_other_error(config);
    for (const char* scheme :
         {"gaussian",
          "orthogonal",
          "olora",
          "pissa",
          "pissa_niter_1",
          "mica"}) {
      config = small();
      config.r = value;
      config.init_lora_weights = scheme;
      expect_no_other_error(config);
    }
  }
}

TEST(Limits, RealsOfLora) {
  for (const auto value : extreme_reals) {
    SCOPED_TRACE(value);
    LoraConfig config = small();
    config.lora_alpha = value;
    expect_no_other_error(config);
    config.use_rslora = config.use_dora = true;
    expect_no_other_error(config);
    config = small();
    config.alpha_pattern = {{"up", value}};
    expect_no_other_error(config);
    config = small();
    config.lora_dropout = value;
    expect_no_other_error(config);
    config = small();
    config.eva_config = peft::EvaConfig{.rho = value, .tau = value};
    expect_no_other_error(config);
  }
}

TEST(Limits, FieldsOfAdaLora) {
  const std::vector<std::int64_t AdaLoraConfig::*> fields = {
      &AdaLoraConfig::init_r,
      &AdaLoraConfig::target_r,
      &AdaLoraConfig::tinit,
      &AdaLoraConfig::tfinal,
      &AdaLoraConfig::deltaT,
      &AdaLoraConfig::r};
  for (const auto value : extremes) {
    for (const auto field : fields) {
      AdaLoraConfig config = small_adalora();
      config.*field = value;
      expect_no_other_error(config);
    }
    AdaLoraConfig config = small_adalora();
    config.total_step = value;
    expect_no_other_error(config);
  }
  for (const auto value : extreme_reals) {
    AdaLoraConfig config = small_adalora();
    config.lora_alpha = config.beta1 = config.orth_reg_weight = value;
    expect_no_other_error(config);
  }
}

TEST(Limits, Float16HoldsLess) {
  TextModel model;
  model->to(torch::kHalf);
  LoraConfig config = small();
  config.lora_alpha = 1e6;
  EXPECT_THROW(peft::inject_adapter_in_model(config, *model), peft::Error);
  EXPECT_THROW(peft::adapters_of(*model), peft::Error);
  EXPECT_THROW(
      peft::adapt(torch::randn({5, 6}, torch::kHalf), config), peft::Error);
}

TEST(Limits, ShapesOfStateDicts) {
  const std::vector<std::vector<std::int64_t>> shapes = {
      {most, 0},
      {0, most},
      {std::int64_t{1} << 40, 0},
      {0},
      {},
      {0, 0, 0},
      {1, 1, 1, 1, 1, 1, 1, 1},
      {2, 6}};
  for (const auto& shape : shapes) {
    for (const char* name :
         {"lora_A.weight",
          "lora_B.weight",
          "lora_B.bias",
          "lora_E",
          "lora_A",
          "lora_B",
          "lora_embedding_A",
          "lora_magnitude_vector",
          "ia3_l",
          "alpha"}) {
      peft::StateDict weights;
      weights.insert(std::string("blocks.0.up.") + name, torch::zeros(shape));
      weights.insert("blocks.1.up.lora_A.weight", torch::zeros({2, 6}));
      const auto expect = [&](const peft::AdapterConfig& config) {
        TextModel model;
        try {
          peft::inject_adapter_in_model(
              config, *model, "default", {.state_dict = &weights});
          peft::set_peft_model_state_dict(*model, weights, "default", true);
        } catch (const peft::Error&) {
        }
      };
      expect(LoraConfig());
      expect(small_adalora());
      peft::IA3Config ia3;
      ia3.feedforward_modules = std::vector<std::string>();
      expect(ia3);
      LoraConfig config = small();
      config.target_modules = {"up"};
      TextModel model;
      peft::inject_adapter_in_model(config, *model);
      EXPECT_THROW(peft::hotswap_adapter(*model, weights, config), peft::Error);
    }
  }
}

Tensor of_dtype(at::IntArrayRef sizes, at::ScalarType dtype) {
  return dtype == at::kComplexFloat
      ? torch::full(sizes, c10::complex<float>(1, 2), dtype)
      : torch::empty(sizes, dtype);
}

// Dtypes that libtorch cannot convert, or whose values are no real numbers.
TEST(Limits, DtypesOfStateDicts) {
  LoraConfig config = small();
  config.target_modules = {"up"};
  for (const auto dtype : {at::kFloat4_e2m1fn_x2, at::kComplexFloat}) {
    TextModel model;
    peft::inject_adapter_in_model(config, *model);
    const Tensor before = model->forward(text_ids());
    peft::StateDict weights;
    for (const auto& item : peft::get_peft_model_state_dict(*model)) {
      weights.insert(
          item.key(),
          weights.is_empty() ? torch::ones_like(item.value())
                             : of_dtype(item.value().sizes(), dtype));
    }
    EXPECT_THROW(peft::set_peft_model_state_dict(*model, weights), peft::Error);
    EXPECT_TRUE(torch::equal(model->forward(text_ids()), before));
  }
}

}  // namespace
}  // namespace peft_test
