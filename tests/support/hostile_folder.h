// SPDX-License-Identifier: Apache-2.0
// An adapter folder whose files are damaged again and again, and the model that
// it is loaded into: each time it loads or is refused by a peft::Error, and the
// model is to the bit what it was.
#pragma once

#include <optional>
#include <random>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {

using OrderedJson = nlohmann::ordered_json;
using Pointer = OrderedJson::json_pointer;

/// Every value in `json`, also those that hold others.
inline std::vector<Pointer> places_of(
    const OrderedJson& json,
    const Pointer& at = Pointer()) {
  std::vector<Pointer> places;
  if (json.is_structured()) {
    for (const auto& item : json.items()) {  // a list's keys are its places
      const Pointer place = at / item.key();
      places.push_back(place);
      for (const Pointer& inner : places_of(item.value(), place)) {
        places.push_back(inner);
      }
    }
  }
  return places;
}

/// The text of `json` with any text in the place of one value.
inline std::string
with(OrderedJson json, const Pointer& place, const std::string& value) {
  json[place] = "@";
  std::string text = json.dump();
  return text.replace(text.find("\"@\""), 3, value);
}

/// Nested so deep that reading it by recursion ends in a crash.
inline std::string endless_list() {
  return std::string(100'000, '[') + std::string(100'000, ']');
}

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
    std::optional<peft::Adapters> adapters;
    const bool loaded = does(
        what, [&] { adapters = peft::load_adapter(*model_, folder_.path()); });
    if (loaded) {
      does(what + ", forward", [&] { model_->forward(text_ids()); });
      EXPECT_TRUE(does(what + ", unload", [&] { adapters->unload(); }));
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

  // Whether it did, or threw a peft::Error.
  template <class Call>
  static bool does(const std::string& what, const Call& call) {
    try {
      call();
      return true;
    } catch (const peft::Error&) {
    } catch (const std::exception& error) {
      ADD_FAILURE() << what << ": " << c10::demangle(typeid(error).name())
                    << ": " << error.what();
    }
    return false;
  }

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
