// SPDX-License-Identifier: Apache-2.0
// Keys that are almost a model's: misspelt names, wrappers of modules, adapters
// and modules called like tensors, tensors that were never gathered.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "model/file_keys.h"
#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/error_of.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using peft::ErrorKind;
using peft::StateDict;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using torch::Tensor;
namespace nn = torch::nn;

TEST(TensorNames, AreWholePartsBehindALayer) {
  using peft::detail::tensor_name_at;
  constexpr auto none = std::string::npos;
  EXPECT_EQ(tensor_name_at("fc.lora_A.weight"), 3);
  EXPECT_EQ(tensor_name_at("fc.lora_E"), 3);
  EXPECT_EQ(tensor_name_at("fc.lora_A.lora_mine.weight"), 3);
  EXPECT_EQ(tensor_name_at("lora_A.fc.lora_B.weight"), 10);
  EXPECT_EQ(tensor_name_at("fc.ia3_l", "lora_"), none);
  for (const char* key :
       {"lora_A.weight",
        "fc.lora_a.weight",
        "fc.lora_Ab.weight",
        "fc.weight",
        "fc.xlora_A.weight",
        "lora_A",
        "",
        ".",
        "fc.lora_",
        "lora_block.fc.w"}) {
    EXPECT_EQ(tensor_name_at(key), none) << key;
  }
}

class FileKeys : public testing::Test {
 protected:
  void SetUp() override {
    config_.r = 2;
    config_.lora_alpha = 3;
    config_.target_modules = {"up", "down"};
    config_.modules_to_save = {"head"};
    TextModel model = fresh();
    auto adapters = peft::inject_adapter_in_model(config_, *model);
    torch::manual_seed(5);
    randomise(adapters.parameters("default"));
    for (const auto& item : peft::get_peft_model_state_dict(*model)) {
      weights_.insert(item.key(), item.value().detach().clone());
    }
    y_ = model->forward(text_ids()).detach();
    peft::save_pretrained(*model, folder_.path());
  }

  static TextModel fresh() {
    torch::manual_seed(0);
    return TextModel();
  }

  template <class Rename>
  StateDict renamed(const Rename& rename) const {
    StateDict result;
    for (const auto& item : weights_) {
      result.insert(rename(item.key()), item.value());
    }
    return result;
  }

  void save(const StateDict& weights) const {
    peft::save_safetensors(weights, folder_ / "adapter_model.safetensors");
  }

  static std::string
  replaced(std::string text, const std::string& a, const std::string& b) {
    if (const auto at = text.find(a); at != std::string::npos) {
      text.replace(at, a.size(), b);
    }
    return text;
  }

  // That `weights` load in every way, each with `count` warnings.
  void expect_loads(const StateDict& weights, std::size_t count) {
    const auto expect = [&](const char* how, auto load) {
      SCOPED_TRACE(how);
      TextModel model = fresh();
      CollectWarnings warnings;
      load(model);
      EXPECT_EQ(warnings.size(), count) << warnings.all();
      EXPECT_TRUE(torch::equal(model->forward(text_ids()), y_));
    };
    save(weights);
    expect("load", [&](TextModel& model) {
      peft::load_adapter(*model, folder_.path());
    });
    expect("attach", [&](TextModel& model) {
      auto adapters = peft::attach_adapter(*model, folder_.path(), "a");
      adapters.set_adapter("a");
    });
    expect("set", [&](TextModel& model) {
      peft::inject_adapter_in_model(config_, *model);
      const auto report = peft::set_peft_model_state_dict(*model, weights);
      EXPECT_TRUE(report.missing_keys.empty());
      EXPECT_TRUE(report.unexpected_keys.empty());
    });
    expect("swap", [&](TextModel& model) {
      peft::inject_adapter_in_model(config_, *model);
      peft::hotswap_adapter(*model, folder_.path());
    });
  }

  TempFolder folder_;
  peft::LoraConfig config_;
  StateDict weights_;
  Tensor y_;
};

TEST_F(FileKeys, WrappersOfModulesAreTakenOutWithAWarning) {
  const std::vector<std::function<std::string(const std::string&)>> wraps = {
      [](const auto& key) { return "module." + key; },
      [](const auto& key) { return "_orig_mod." + key; },
      [](const auto& key) { return "base_model.model._orig_mod." + key; },
      [](const auto& key) { return "module.base_model.model." + key; },
      [](const auto& key) {
        return "_fsdp_wrapped_module._orig_mod." +
            replaced(key, "blocks.0.", "blocks.0._checkpoint_wrapped_module.");
      },
      [](const auto& key) {
        return replaced(key, ".lora_", "._orig_mod.lora_");
      }};
  for (const auto& wrap : wraps) {
    SCOPED_TRACE(wrap("x"));
    expect_loads(renamed(wrap), 1);
  }
}

TEST_F(FileKeys, TheWarningNamesTheWrapper) {
  save(renamed([](const auto& key) { return "_orig_mod." + key; }));
  TextModel model = fresh();
  CollectWarnings warnings;
  peft::load_adapter(*model, folder_.path());
  EXPECT_THAT(
      warnings.all(),
      AllOf(
          HasSubstr("'_orig_mod' of torch.compile"),
          HasSubstr("_orig_mod.blocks.0.down.lora_A.weight")));
}

TEST_F(FileKeys, WrappersInKeysOfAStateDictToInjectFrom) {
  StateDict some;
  for (const auto& item : weights_) {
    if (item.key().find("lora_") != std::string::npos) {
      some.insert("module." + item.key(), item.value());
    }
  }
  TextModel model = fresh();
  CollectWarnings warnings;
  auto adapters = peft::inject_adapter_in_model(
      peft::LoraConfig(), *model, "default", {.state_dict = &some});
  EXPECT_EQ(adapters.report().adapted().size(), 4);
  EXPECT_EQ(warnings.size(), 1) << warnings.all();
}

// A model with modules of its own that are called like wrappers.
struct WrappedImpl : nn::Module {
  WrappedImpl() {
    module->push_back("module", nn::Linear(4, 4));
    register_module("module", module);
    fc = register_module("_orig_mod", nn::Linear(4, 4));
  }
  nn::Sequential module;
  nn::Linear fc{nullptr};
};
TORCH_MODULE(Wrapped);

TEST(FileKeysOfTheModel, ModulesThatAreCalledLikeWrappersAreModules) {
  Wrapped model;
  peft::LoraConfig config;
  config.target_modules = {"module.module", "_orig_mod"};
  peft::inject_adapter_in_model(config, *model);
  StateDict weights;
  for (const auto& item : peft::get_peft_model_state_dict(*model)) {
    weights.insert(item.key(), torch::ones_like(item.value()));
  }
  ASSERT_TRUE(weights.contains("module.module.lora_A.weight"));
  ASSERT_TRUE(weights.contains("_orig_mod.lora_B.weight"));
  CollectWarnings warnings;
  const auto report = peft::set_peft_model_state_dict(*model, weights);
  EXPECT_TRUE(report.unexpected_keys.empty());
  EXPECT_TRUE(report.missing_keys.empty());
  EXPECT_EQ(warnings.all(), "");
}

TEST(FileKeysOfTheModel, AModuleOfTheModelIsNotTakenOutWhereverItIs) {
  struct TwoImpl : nn::Module {
    TwoImpl() {
      register_module("fc", nn::Linear(4, 4));
      inner->push_back("fc", nn::Linear(4, 4));
      register_module("module", inner);
    }
    nn::Sequential inner;
  };
  const auto model = std::make_shared<TwoImpl>();
  peft::LoraConfig config;
  config.target_modules = {"fc"};
  config.exclude_modules = {"module.fc"};
  peft::inject_adapter_in_model(config, *model);
  StateDict weights;
  weights.insert("module.fc.lora_A.weight", torch::ones({8, 4}));
  const auto report = peft::set_peft_model_state_dict(*model, weights);
  EXPECT_EQ(report.unexpected_keys, weights.keys());
}

TEST(FileKeysOfTheModel, WrappersInKeysOfTheBase) {
  torch::manual_seed(3);
  TextModel from;
  TextModel to;
  StateDict weights;
  for (const auto& item : peft::get_base_model_state_dict(*from)) {
    weights.insert("module." + item.key(), item.value());
  }
  CollectWarnings warnings;
  peft::set_base_model_state_dict(*to, weights);
  EXPECT_EQ(warnings.size(), 1) << warnings.all();
  EXPECT_TRUE(torch::equal(to->forward(text_ids()), from->forward(text_ids())));
  weights.insert("_orig_mod.tail.weight", torch::ones({2}));
  EXPECT_THAT(
      error_of(
          ErrorKind::shape,
          [&] { peft::set_base_model_state_dict(*to, weights); }),
      AllOf(HasSubstr("torch.compile"), HasSubstr("strip it")));
}

TEST_F(FileKeys, WhatTwoKeysClaimIsAnErrorThatNamesTheWrapper) {
  StateDict both = weights_;
  const std::string key = weights_.keys()[0];
  both.insert("module." + key, weights_[key] + 1);
  both.insert("module.stranger.lora_A.weight", torch::ones({2, 2}));
  save(both);
  TextModel model = fresh();
  EXPECT_THAT(
      error_of(
          ErrorKind::shape,
          [&] { peft::load_adapter(*model, folder_.path()); }),
      AllOf(
          HasSubstr("'module." + key),
          HasSubstr("'module.stranger.lora_A.weight'"),
          HasSubstr("DataParallel"),
          HasSubstr("strip it")));
}

TEST_F(FileKeys, OtherSpellingsAreErrorsThatSayTheRightOne) {
  const auto wrong = renamed(
      [](const auto& key) { return replaced(key, "lora_A", "lora_a"); });
  const auto expect = [&](ErrorKind kind, auto load) {
    TextModel model = fresh();
    EXPECT_THAT(
        error_of(kind, [&] { load(model); }),
        AllOf(
            HasSubstr("say 'lora_a' where PEFT says 'lora_A'"),
            HasSubstr("blocks.0.up.lora_a.weight")));
  };
  save(wrong);
  expect(ErrorKind::shape, [&](TextModel& model) {
    peft::load_adapter(*model, folder_.path());
  });
  expect(ErrorKind::target, [&](TextModel& model) {
    peft::inject_adapter_in_model(
        config_, *model, "default", {.state_dict = &wrong});
  });
  expect(ErrorKind::shape, [&](TextModel& model) {
    peft::inject_adapter_in_model(config_, *model);
    peft::set_peft_model_state_dict(*model, wrong);
  });
  expect(ErrorKind::shape, [&](TextModel& model) {
    peft::inject_adapter_in_model(config_, *model);
    peft::hotswap_adapter(*model, folder_.path());
  });
}

TEST_F(FileKeys, AFailedSpellingChangesNothing) {
  TextModel model = fresh();
  auto adapters = peft::inject_adapter_in_model(config_, *model);
  const Tensor before = model->forward(text_ids());
  StateDict weights = weights_;
  weights.insert("blocks.0.up.LORA_B", torch::ones({2, 2}));
  error_of(ErrorKind::shape, [&] {
    peft::set_peft_model_state_dict(*model, weights, "default", true);
  });
  EXPECT_TRUE(torch::equal(model->forward(text_ids()), before));
}

TEST_F(FileKeys, AdaptersMayBeCalledLikeTensors) {
  for (const std::string name : {"lora_mine", "lora_a", "module", "lora_"}) {
    SCOPED_TRACE(name);
    const auto live = renamed([&](const std::string& key) {
      return key.find(".lora_") == std::string::npos
          ? key
          : replaced(key, ".weight", "." + name + ".weight");
    });
    expect_loads(live, 0);
    StateDict some;
    for (const auto& item : live) {
      if (item.key().find(".lora_") != std::string::npos) {
        some.insert(item.key(), item.value());
      }
    }
    TextModel model = fresh();
    auto adapters = peft::inject_adapter_in_model(
        peft::LoraConfig(), *model, "default", {.state_dict = &some});
    EXPECT_EQ(adapters.report().adapted().size(), 4);
  }
}

TEST_F(FileKeys, EmptyTensorsAreOfZeRO3) {
  const auto empty = [&] {
    StateDict result;
    for (const auto& item : weights_) {
      result.insert(item.key(), torch::empty({0}));
    }
    return result;
  }();
  save(empty);
  const auto expect = [&](ErrorKind kind, auto load) {
    TextModel model = fresh();
    EXPECT_THAT(
        error_of(kind, [&] { load(model); }),
        AllOf(HasSubstr("ZeRO-3"), HasSubstr("zero_to_fp32.py")));
  };
  expect(ErrorKind::shape, [&](TextModel& model) {
    peft::load_adapter(*model, folder_.path());
  });
  expect(ErrorKind::target, [&](TextModel& model) {
    peft::inject_adapter_in_model(
        config_, *model, "default", {.state_dict = &empty});
  });
  expect(ErrorKind::shape, [&](TextModel& model) {
    peft::inject_adapter_in_model(config_, *model);
    peft::set_peft_model_state_dict(*model, empty);
  });
}

TEST_F(FileKeys, AlphasThatAreNoNumberDoNotFail) {
  StateDict some;
  for (const auto& item : weights_) {
    if (item.key().find("lora_") != std::string::npos) {
      some.insert(item.key(), item.value());
    }
  }
  some.insert(
      "blocks.0.up.alpha",
      torch::full({}, c10::complex<float>(1, 2), torch::kComplexFloat));
  some.insert("blocks.1.up.alpha", torch::empty({}, torch::kMeta));
  TextModel model = fresh();
  auto adapters = peft::inject_adapter_in_model(
      config_, *model, "default", {.state_dict = &some});
  EXPECT_DOUBLE_EQ(adapters.scaling("default").at("blocks.0.up"), 1.5);
}

}  // namespace
}  // namespace peft_test
