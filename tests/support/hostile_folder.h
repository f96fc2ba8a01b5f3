// SPDX-License-Identifier: Apache-2.0
// An adapter folder whose files are damaged again and again, and the model that
// it is loaded into: each time it loads or is refused by a peft::Error, and the
// model is to the bit what it was.
#pragma once

#include <random>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {

class HostileFolder : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(0);
    model_ = TextModel();
    for (const auto& parameter : model_->parameters()) {
      own_.push_back({parameter, parameter.detach().clone()});
    }
    modules_ = model_->modules().size();
    output_ = model_->forward(text_ids());
  }

  void TearDown() override {
    EXPECT_TRUE(torch::equal(model_->forward(text_ids()), output_));
  }

  /// Saves an adapter with this config, whose files are the good ones.
  void save(const peft::AdapterConfig& config) {
    auto adapters = peft::inject_adapter_in_model(config, *model_);
    randomise(adapters.parameters("default"));
    peft::save_pretrained(*model_, folder_.path());
    adapters.unload();
    config_ = read_bytes(folder_ / "adapter_config.json");
    weights_ = read_bytes(folder_ / "adapter_model.safetensors");
    ASSERT_TRUE(loads("the good files"));
  }

  bool loads_with_weights(const std::string& bytes, const std::string& what) {
    write_bytes(folder_ / "adapter_model.safetensors", bytes);
    return loads(what);
  }

  bool loads_with_config(const std::string& json, const std::string& what) {
    write_bytes(folder_ / "adapter_config.json", json);
    return loads(what);
  }

  /// `what` the damage was, for the report of a failure.
  bool loads(const std::string& what) {
    bool loaded = false;
    try {
      auto adapters = peft::load_adapter(*model_, folder_.path());
      loaded = true;
      model_->forward(text_ids());
      adapters.unload();
    } catch (const peft::Error& error) {
      EXPECT_FALSE(loaded) << what << ": " << error.what();
    } catch (const std::exception& error) {
      ADD_FAILURE() << what << ": " << c10::demangle(typeid(error).name())
                    << ": " << error.what();
    }
    expect_untouched(what);
    return loaded;
  }

  /// One bit of `bytes` turned, or a run of bytes replaced.
  std::string damaged(std::string bytes) {
    const auto below = [&](std::size_t size) {
      return static_cast<std::size_t>(random_() % size);
    };
    const std::size_t place = below(bytes.size());
    if (below(4) > 0) {
      bytes[place] = static_cast<char>(bytes[place] ^ 1 << below(8));
      return bytes;
    }
    for (std::size_t i = place; i < std::min(place + 8, bytes.size()); ++i) {
      bytes[i] = static_cast<char>(below(256));
    }
    return bytes;
  }

  TempFolder folder_;
  std::string config_;
  std::string weights_;
  TextModel model_{nullptr};

 private:
  struct Own {
    at::Tensor tensor;
    at::Tensor values;
  };

  void expect_untouched(const std::string& what) {
    EXPECT_EQ(model_->modules().size(), modules_) << what;
    const auto now = model_->parameters();
    ASSERT_EQ(now.size(), own_.size()) << what;
    for (std::size_t i = 0; i < now.size(); ++i) {
      EXPECT_TRUE(now[i].is_same(own_[i].tensor)) << what;
      EXPECT_TRUE(torch::equal(now[i], own_[i].values)) << what;
      EXPECT_TRUE(now[i].requires_grad()) << what;
    }
  }

  std::mt19937 random_{7};  // the same damage in every run
  std::vector<Own> own_;
  std::size_t modules_ = 0;
  at::Tensor output_;
  CollectWarnings quiet_;
};

}  // namespace peft_test
