// SPDX-License-Identifier: Apache-2.0
// What never ran, dtypes of adapters, and scopes beside them.
#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/message_of.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using testing::HasSubstr;
using torch::Tensor;

// Calls `used`; has `unused`, which no forward calls.
struct HalfUsedImpl : nn::Module {
  HalfUsedImpl() {
    register_module("used", used);
    register_module("unused", unused);
  }
  Tensor forward(const Tensor& x) { return used(x); }
  nn::Linear used{4, 4}, unused{4, 4};
};
TORCH_MODULE(HalfUsed);

peft::LoraConfig lora() {
  peft::LoraConfig config;
  config.r = 2;
  config.target_modules = "all-linear";
  return config;
}

TEST(Audit, NamesWhatNeverRanAndWhy) {
  HalfUsed model;
  peft::inject_adapter_in_model(lora(), *model, "a");
  auto adapters = peft::inject_adapter_in_model(lora(), *model, "b");
  auto report = adapters.audit();
  EXPECT_EQ(report.never_called.size(), 4);
  EXPECT_EQ(report.without_gradient.size(), 8);

  const Tensor x = torch::randn({3, 4});
  const Tensor y = model->forward(x);
  report = adapters.audit();
  ASSERT_EQ(report.never_called.size(), 3);
  EXPECT_EQ(report.never_called[0].adapter, "a");
  EXPECT_THAT(report.never_called[0].reason, HasSubstr("is not active"));
  EXPECT_EQ(report.never_called[2].layer, "unused");
  EXPECT_THAT(report.never_called[2].reason, HasSubstr("no forward has read"));
  EXPECT_THAT(
      report.without_gradient[4].reason, HasSubstr("no backward reached it"));

  y.sum().backward();
  report = adapters.audit();
  EXPECT_EQ(report.without_gradient.size(), 6);  // all of a, and b's unused
  EXPECT_THAT(
      report.to_string(),
      testing::AllOf(
          HasSubstr("3 layers never called"),
          HasSubstr("'b' unused.lora_A.weight")));

  adapters.delete_adapter("a");
  adapters.merge_adapter();
  EXPECT_THAT(adapters.audit().to_string(), HasSubstr("is merged"));
  adapters.unmerge_adapter();
  adapters.set_requires_grad("b", false);
  EXPECT_TRUE(adapters.audit().without_gradient.empty());
}

// A stage that a train() of the user's own keeps as it is, as timm and
// torchvision models have them.
struct StagedImpl : nn::Module {
  StagedImpl() {
    register_module("stage", stage);
    register_module("head", head);
  }
  void train(bool on = true) override {
    nn::Module::train(on);
    for (auto& parameter : stage->parameters()) {
      parameter.set_requires_grad(false);
    }
  }
  Tensor forward(const Tensor& x) { return head(stage(x)); }
  nn::Linear stage{4, 4}, head{4, 2};
};
TORCH_MODULE(Staged);

TEST(Audit, NamesWhatIsFrozenOfAnAdapterThatTrains) {
  Staged model;
  auto config = lora();
  config.bias = "lora_only";
  auto adapters = peft::inject_adapter_in_model(config, *model);
  const auto frozen = [&] {
    std::vector<std::string> keys;
    for (const auto& entry : adapters.audit().frozen) {
      keys.push_back(entry.key);
    }
    return keys;
  };
  EXPECT_TRUE(frozen().empty());
  model->train();
  model->forward(torch::randn({3, 4})).sum().backward();
  EXPECT_THAT(
      frozen(),
      testing::ElementsAre(
          "stage.lora_A.weight",
          "stage.lora_B.weight",
          "stage.base_layer.bias"));
  const auto report = adapters.audit();
  EXPECT_FALSE(report.empty());
  EXPECT_EQ(report.frozen[0].layer, "stage");
  EXPECT_EQ(report.frozen[2].layer, "stage");
  EXPECT_THAT(
      report.to_string(),
      testing::AllOf(
          HasSubstr("3 frozen parameters of adapters that train"),
          HasSubstr("'default' stage.lora_A.weight"),
          HasSubstr("set_requires_grad(name, true)")));

  adapters.set_requires_grad("default", true);  // as the report says
  model->forward(torch::randn({3, 4})).sum().backward();
  EXPECT_TRUE(adapters.audit().empty()) << adapters.audit().to_string();
  adapters.set_requires_grad("default", false);  // what was asked for is well
  EXPECT_TRUE(frozen().empty());
  config.bias = "none";
  config.inference_mode = true;
  peft::inject_adapter_in_model(config, *model, "frozen");
  EXPECT_TRUE(frozen().empty());
}

TEST(Audit, KnowsOfBTensorsThatStayAsTheyBegan) {
  HalfUsed model;
  auto config = lora();
  config.init_lora_weights = "mica";  // trains A alone
  auto adapters = peft::inject_adapter_in_model(config, *model);
  EXPECT_TRUE(adapters.audit().frozen.empty());
}

TEST(AdapterDtypes, HalfPrecisionIsCastInTheSameTensors) {
  HalfUsed model;
  model->to(torch::kBFloat16);
  auto adapters = peft::inject_adapter_in_model(
      lora(), *model, "default", {.autocast_adapter_dtype = false});
  const auto before = adapters.parameters("default");
  adapters.cast_adapter_dtype("default", false);
  EXPECT_EQ(before[0].scalar_type(), torch::kBFloat16);
  adapters.cast_adapter_dtype();
  const auto after = adapters.parameters("default");
  for (std::size_t i = 0; i < after.size(); ++i) {
    EXPECT_EQ(after[i].scalar_type(), torch::kFloat);
    EXPECT_TRUE(after[i].is_same(before[i]));
  }
  const Tensor x = torch::randn({3, 4}, torch::kBFloat16);
  const Tensor y = model->forward(x);
  EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
  y.sum().backward();
  EXPECT_EQ(after[1].grad().scalar_type(), torch::kFloat);
  {
    const peft::DisableInputDtypeCasting scope;
    EXPECT_THAT(message_of([&] { model->forward(x); }), HasSubstr("dtype"));
  }
  model->forward(x);
}

TEST(AdapterDtypes, ConvolutionsFollowAutocast) {
  nn::Sequential model(nn::Conv1d(4, 4, 3));
  peft::LoraConfig config = lora();
  config.target_modules = {"0"};
  auto adapters = peft::inject_adapter_in_model(config, *model);
  randomise(adapters.parameters("default"));
  const Tensor x = torch::randn({2, 4, 6});
  const Tensor expected = model->forward(x);
  at::autocast::set_autocast_dtype(at::kCPU, torch::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const Tensor y = model->forward(x);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
  EXPECT_TRUE(torch::allclose(y.to(torch::kFloat), expected, 5e-2, 5e-2));
}

TEST(AdapterScales, AreRescaledForAScope) {
  HalfUsed model;
  auto adapters = peft::inject_adapter_in_model(lora(), *model);
  const Tensor x = torch::randn({3, 4});
  const Tensor base = model->forward(x);
  randomise(adapters.parameters("default"));
  const Tensor change = model->forward(x) - base;
  {
    const auto scope = peft::rescale_adapter_scale(adapters, 0.5);
    EXPECT_TRUE(
        torch::allclose(model->forward(x), base + 0.5 * change, 1e-4, 1e-5));
  }
  EXPECT_TRUE(torch::allclose(model->forward(x), base + change, 1e-4, 1e-5));
  EXPECT_THAT(
      message_of([&] { (void)peft::ScaleAdapters(adapters, INFINITY); }),
      HasSubstr("finite"));
}

}  // namespace
}  // namespace peft_test
