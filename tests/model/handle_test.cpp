// SPDX-License-Identifier: Apache-2.0
// Handles: empty ones, and what they hand out while others change adapters.
#include <atomic>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/error_of.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using peft::Adapters;
using peft::ErrorKind;
using testing::AllOf;
using testing::HasSubstr;

peft::LoraConfig lora(int64_t r) {
  peft::LoraConfig config;
  config.r = r;
  config.lora_alpha = 5;
  config.target_modules = {"up"};
  config.inference_mode = true;
  return config;
}

TEST(EmptyHandle, SaysWhatToDoWhateverItIsAsked) {
  struct {
    Adapters adapters;
  } trainer;  // to be filled later
  Adapters& a = trainer.adapters;
  EXPECT_FALSE(a);
  const std::vector<std::function<void()>> uses = {
      [&] { a.trainable_parameters(); },
      [&] { a.parameters("default"); },
      [&] { a.names(); },
      [&] { a.active_adapters(); },
      [&] { a.enabled(); },
      [&] { a.config(); },
      [&] { a.report(); },
      [&] { a.set_adapter("default"); },
      [&] { a.set_adapter(std::vector<std::string>{"default"}); },
      [&] { a.set_adapter({"a", "b"}); },
      [&] { a.enable_adapters(false); },
      [&] { a.merge_adapter(); },
      [&] { a.unmerge_adapter(); },
      [&] { a.merged_adapters(); },
      [&] { a.merge_and_unload(); },
      [&] { a.delete_adapter("default"); },
      [&] { a.unload(); },
      [&] { a.set_requires_grad("default", true); },
      [&] { a.set_scale("default", 2); },
      [&] { a.cast_adapter_dtype(); },
      [&] { a.cast_adapter_dtype("default", false); },
      [&] { a.scale_layer(2); },
      [&] { a.unscale_layer(); },
      [&] { a.scaling("default"); },
      [&] { a.update_and_allocate(0); },
      [&] { a.orthogonal_regularization(); },
      [&] { a.training_state(); },
      [&] { a.load_training_state(peft::StateDict()); },
      [&] { a.audit(); },
      [&] { a.layer_status(); },
      [&] { a.status(); },
      [&] { a.state(); },
      [&] { peft::set_memory_budget(a, 1); },
      [&] { peft::resident_bytes(a); },
      [&] { peft::is_resident(a, "default"); },
      [&] { peft::evict(a, "default"); },
      [&] { const peft::UseAdapter scope(a, "default"); },
      [&] { const peft::UseAdapter scope(a, {"a", "b"}); },
      [&] { const peft::DisableAdapters scope(a); },
      [&] { const peft::PinAdapters scope(a); },
      [&] { const peft::ScaleAdapters scope(a, 2); },
      [&] { const auto scope = peft::rescale_adapter_scale(a, 2); },
      [&] { const peft::BatchAdapters scope(a, {"default"}); },
  };
  for (std::size_t i = 0; i < uses.size(); ++i) {
    EXPECT_THAT(
        error_of(ErrorKind::state, uses[i]),
        AllOf(HasSubstr("is empty"), HasSubstr("inject_adapter_in_model")))
        << "use " << i;
  }
  TextModel model;
  a = peft::inject_adapter_in_model(lora(2), *model);
  EXPECT_TRUE(a);
  EXPECT_EQ(a.names().size(), 1);
}

TEST(Handle, WhatItHandsOutOutlivesTheAdapter) {
  TextModel model;
  peft::inject_adapter_in_model(lora(2), *model, "stays");
  auto adapters = peft::inject_adapter_in_model(lora(3), *model, "goes");
  const peft::AdapterConfig& config = adapters.config("goes");
  const peft::MatchReport& report = adapters.report("goes");
  EXPECT_EQ(&config, &adapters.config("goes"));  // one, however often asked
  adapters.delete_adapter("goes");
  EXPECT_EQ(dynamic_cast<const peft::LoraConfig&>(config).r, 3);
  EXPECT_EQ(report.adapted().size(), 2);
  EXPECT_FALSE(report.to_string().empty());
}

TEST(Handle, ConfigsSayWhatAnAdapterIsNowAndStayWhatTheyWere) {
  TextModel model;
  auto adapters = peft::inject_adapter_in_model(lora(2), *model, "a");
  peft::inject_adapter_in_model(lora(4), *model, "b");
  const auto& before = adapters.config("a");
  peft::hotswap_adapter(
      *model,
      peft::get_peft_model_state_dict(*model, "b"),
      adapters.config("b"),
      "a");
  EXPECT_EQ(dynamic_cast<const peft::LoraConfig&>(before).r, 2);
  EXPECT_EQ(dynamic_cast<const peft::LoraConfig&>(adapters.config("a")).r, 4);
}

TEST(Handle, IsAskedWhileAnotherThreadSwapsAndDeletes) {
  TextModel model;
  auto adapters = peft::inject_adapter_in_model(lora(2), *model, "stays");
  const auto weights = peft::get_peft_model_state_dict(*model, "stays");
  std::atomic<bool> done = false;
  std::atomic<int> asked = 0;
  std::thread reader([&] {
    while (!done || asked == 0) {
      for (const char* name : {"stays", "comes and goes"}) {
        try {
          const peft::AdapterConfig& config = adapters.config(name);
          const auto report = adapters.report(name);
          std::this_thread::yield();
          const auto& read = dynamic_cast<const peft::LoraConfig&>(config);
          EXPECT_TRUE(read.r == 2 || read.r == 3);
          EXPECT_EQ(report.adapted().size(), 2);
          ++asked;
        } catch (const peft::Error& error) {
          EXPECT_THAT(error.what(), HasSubstr("has no adapter"));
        }
      }
    }
  });
  for (int i = 0; i < 40; ++i) {
    peft::inject_adapter_in_model(lora(3), *model, "comes and goes");
    auto config = lora(2);
    config.lora_alpha = i;
    peft::hotswap_adapter(*model, weights, config, "stays");
    adapters.delete_adapter("comes and goes");
  }
  done = true;
  reader.join();
  EXPECT_GT(asked.load(), 0);
}

}  // namespace
}  // namespace peft_test
