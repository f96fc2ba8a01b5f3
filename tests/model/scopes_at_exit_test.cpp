// SPDX-License-Identifier: Apache-2.0
// Scopes that end after their thread's list of scopes has gone: static ones,
// and those of a thread's own objects.
#include <cstdlib>
#include <functional>
#include <optional>
#include <thread>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using torch::Tensor;

peft::Adapters inject(TextModel& model, const std::string& name) {
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 5;
  config.target_modules = {"up", "down", "head"};
  auto adapters = peft::inject_adapter_in_model(config, *model, name);
  randomise(adapters.parameters(name));
  return adapters;
}

// A scope of a thread, ended with it.
struct OfThread {
  std::optional<peft::UseAdapter> scope;
  std::function<void()> afterwards;
  ~OfThread() {
    scope.reset();
    if (afterwards) {
      afterwards();
    }
  }
};

TEST(ScopesAtExit, AThreadsObjectEndsItsScopeLate) {
  torch::manual_seed(6);
  TextModel model;
  inject(model, "a");
  const Tensor a = model->forward(text_ids());
  auto adapters = inject(model, "b");
  const Tensor b = model->forward(text_ids());
  Tensor inside;
  Tensor after;
  Tensor in_a_new_scope;
  std::thread([&] {
    // What libtorch keeps for a thread is there first, so that it goes last.
    TextModel()->forward(text_ids()).sum().backward();
    thread_local OfThread own;
    own.afterwards = [&] {
      after = model->forward(text_ids());
      const peft::UseAdapter too_late(adapters, "a");
      in_a_new_scope = model->forward(text_ids());
    };
    own.scope.emplace(adapters, "a");  // and the list of scopes, which goes
    inside = model->forward(text_ids());
  }).join();
  EXPECT_TRUE(torch::equal(inside, a));
  // The list is gone: the thread runs the model's own choice.
  EXPECT_TRUE(torch::equal(after, b));
  EXPECT_TRUE(torch::equal(in_a_new_scope, b));
}

// Begins and ends a scope when all others have ended.
struct LastOfAll {
  const peft::Adapters& adapters;
  ~LastOfAll() {
    const peft::UseAdapter use(adapters, "a");
    const peft::ScaleAdapters scale(adapters, 2);
  }
};

[[noreturn]] void leave_with_static_scopes() {
  static TextModel model;
  inject(model, "a");
  static const peft::Adapters adapters = inject(model, "b");
  static const LastOfAll last{adapters};
  static const peft::UseAdapter use(adapters, "a");
  static const peft::BatchAdapters batch(adapters, {"a", "__base__"});
  model->forward(text_ids());
  std::exit(0);
}

TEST(ScopesAtExitDeathTest, StaticScopesEndQuietly) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(leave_with_static_scopes(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace peft_test
