// SPDX-License-Identifier: Apache-2.0
// Adapters that are read when they are needed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/message_of.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using testing::HasSubstr;
using torch::Tensor;

class Attached : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(8);
    model_->eval();
    for (const std::string name : {"a", "b", "c"}) {
      peft::LoraConfig config;
      config.r = 3;
      config.lora_alpha = 5;
      config.lora_dropout = 0.5;
      config.target_modules = {"up", "down"};
      config.modules_to_save = {"head"};
      if (name == "b") {
        config.init_lora_weights = "pissa";
      }
      auto adapters = peft::inject_adapter_in_model(config, *model_, name);
      randomise(adapters.parameters(name));
      outputs_[name] = forward();
      peft::save_adapter(*model_, folder_ / name, name);
      adapters.unload();
    }
    for (const std::string name : {"a", "b", "c"}) {
      peft::attach_adapter(*model_, folder_ / name, name);
    }
  }

  peft::Adapters adapters() { return peft::adapters_of(*model_); }
  Tensor forward() { return model_->forward(text_ids()); }

  void expect_runs(const std::string& name) {
    const peft::UseAdapter scope(adapters(), name);
    EXPECT_TRUE(torch::allclose(forward(), outputs_[name], 1e-5, 1e-6)) << name;
  }

  TempFolder folder_;
  TextModel model_;
  std::map<std::string, Tensor> outputs_;
};

TEST_F(Attached, IsReadWhenItIsChosen) {
  EXPECT_EQ(peft::resident_bytes(adapters()), 0);
  EXPECT_TRUE(adapters().active_adapters().empty());
  for (const auto* name : {"a", "b", "c"}) {
    EXPECT_FALSE(peft::is_resident(adapters(), name));
    expect_runs(name);
    EXPECT_TRUE(peft::is_resident(adapters(), name));
  }
  EXPECT_TRUE(model_->named_children()["head"]->children().empty());
  EXPECT_EQ(peft::get_base_model_state_dict(*model_).size(), 11);
}

TEST_F(Attached, TheLeastRecentlyChosenGoesFirst) {
  expect_runs("a");
  const auto one = peft::resident_bytes(adapters());
  peft::set_memory_budget(adapters(), 2 * one + one / 2);
  expect_runs("c");
  expect_runs("a");
  expect_runs("c");
  expect_runs("a");
  // b keeps its first factors too, and needs more room.
  expect_runs("b");
  EXPECT_FALSE(peft::is_resident(adapters(), "c"));
  expect_runs("c");
  EXPECT_LE(peft::resident_bytes(adapters()), 2 * one + one / 2);
  for (int i = 0; i < 3; ++i) {
    for (const auto* name : {"a", "b", "c"}) {
      expect_runs(name);
    }
  }
  peft::set_memory_budget(adapters(), 0);
  EXPECT_EQ(peft::resident_bytes(adapters()), 0);
}

TEST_F(Attached, StaysWhileItIsActiveOrAScopeRunsIt) {
  adapters().set_adapter("a");
  EXPECT_THAT(
      message_of([&] { peft::evict(adapters(), "a"); }),
      HasSubstr("'a' is active or merged"));
  const peft::UseAdapter scope(adapters(), "c");
  const Tensor before = forward();
  peft::evict(adapters(), "c");
  EXPECT_FALSE(peft::is_resident(adapters(), "c"));
  EXPECT_TRUE(torch::equal(forward(), before));
  peft::set_memory_budget(adapters(), 0);
  EXPECT_TRUE(peft::is_resident(adapters(), "a"));
}

TEST_F(Attached, TakesPartInEveryOperation) {
  peft::evict(adapters(), "a");
  {
    const peft::BatchAdapters scope(adapters(), {"a", "c"});
    const Tensor mixed = forward();
    EXPECT_TRUE(torch::allclose(mixed[0], outputs_["a"][0], 1e-4, 1e-5));
    EXPECT_TRUE(torch::allclose(mixed[1], outputs_["c"][1], 1e-4, 1e-5));
  }
  adapters().merge_adapter({"b"});
  EXPECT_TRUE(torch::allclose(forward(), outputs_["b"], 1e-4, 1e-5));
  adapters().unmerge_adapter();
  peft::evict(adapters(), "c");
  const TempFolder copy;
  peft::save_adapter(*model_, copy.path(), "c");
  adapters().delete_adapter("c");
  peft::load_adapter(*model_, copy.path(), "c");
  expect_runs("c");
  EXPECT_EQ(adapters().names(), (std::vector<std::string>{"a", "b", "c"}));
}

TEST_F(Attached, IsSwappedForAnotherFolder) {
  const peft::UseAdapter before(adapters(), "a");
  {
    const peft::UseAdapter scope(adapters(), "b");
    peft::hotswap_adapter(*model_, folder_ / "c", "b");
    expect_runs("a");
    EXPECT_TRUE(torch::allclose(forward(), outputs_["b"], 1e-5, 1e-6));
  }
  EXPECT_EQ(adapters().names(), (std::vector<std::string>{"a", "c", "b"}));
  EXPECT_FALSE(peft::is_resident(adapters(), "b"));
  outputs_["b"] = outputs_["c"];
  expect_runs("b");
  peft::evict(adapters(), "b");
  expect_runs("b");
  peft::set_memory_budget(adapters(), 0);
  adapters().set_adapter("c");
  peft::hotswap_adapter(*model_, folder_ / "a", "c");
  outputs_["c"] = outputs_["a"];
  expect_runs("c");
  EXPECT_EQ(adapters().active_adapters(), std::vector<std::string>{"c"});
  EXPECT_TRUE(peft::is_resident(adapters(), "c"));

  std::filesystem::resize_file(folder_ / "b" / "adapter_model.safetensors", 20);
  EXPECT_THROW(peft::hotswap_adapter(*model_, folder_ / "b", "c"), peft::Error);
  adapters().merge_adapter();
  EXPECT_THAT(
      message_of([&] { peft::hotswap_adapter(*model_, folder_ / "a", "c"); }),
      HasSubstr("'c' is merged"));
  EXPECT_EQ(adapters().names().size(), 3);
  expect_runs("c");
}

// The budget holds neither of them alone.
TEST_F(Attached, SeveralTakePartInOneOperation) {
  peft::set_memory_budget(adapters(), 1);
  EXPECT_THAT(
      message_of([&] {
        peft::add_weighted_adapter(*model_, {"b", "c"}, {1, 0}, "sum");
      }),
      HasSubstr("'b' and 'c' both have their own copy of 'head'"));
  adapters().merge_adapter({"b"});
  adapters().unmerge_adapter();
  adapters().set_adapter({"b"});
  peft::convert_to_lora(*model_, 3, "c");
  EXPECT_THAT(
      message_of([&] { peft::resize_adapter(*model_, 1, "c"); }),
      HasSubstr("'c' was attached to a folder"));
}

TEST_F(Attached, FollowsAModelThatWasCast) {
  expect_runs("a");
  model_->to(torch::kFloat64);
  const peft::UseAdapter scope(adapters(), "a");
  EXPECT_TRUE(torch::allclose(
      forward(), outputs_["a"].to(torch::kFloat64), 1e-4, 1e-5));
}

TEST_F(Attached, IsCheckedWhenItIsAttached) {
  TextModel other;
  peft::LoraConfig config;
  config.target_modules = {"embedding"};
  peft::inject_adapter_in_model(config, *other);
  peft::save_pretrained(*other, folder_ / "other");
  std::filesystem::copy_file(
      folder_ / "other/adapter_model.safetensors",
      folder_ / "a/adapter_model.safetensors",
      std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(
      message_of(
          [&] { peft::attach_adapter(*model_, folder_ / "a", "again"); }),
      HasSubstr("fit nowhere in this model"));
  EXPECT_EQ(adapters().names().size(), 3);
  EXPECT_THAT(
      message_of([&] { adapters().set_requires_grad("b", true); }),
      HasSubstr("was attached to a folder"));
}

}  // namespace
}  // namespace peft_test
