// SPDX-License-Identifier: Apache-2.0
// load_peft_weights: one file, or shards with an index; safetensors or pickles.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/error_of.h"
#include "support/pickle_bytes.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using peft::ErrorKind;
using testing::AllOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

class AdapterWeights : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(0);
    peft::LoraConfig config;
    config.r = 2;
    config.lora_alpha = 3;
    config.target_modules = {"up", "down"};
    auto adapters = peft::inject_adapter_in_model(config, *model_);
    randomise(adapters.parameters("default"));
    peft::save_pretrained(*model_, folder_.path());
    for (const auto& item : peft::load_peft_weights(folder_.path())) {
      all_.insert(item.key(), item.value().clone());
    }
    fs::remove(folder_ / "adapter_model.safetensors");
  }

  static TextModel fresh() {
    torch::manual_seed(1);
    return TextModel();
  }

  static std::string shard(int number) {
    return "adapter_model-0000" + std::to_string(number) +
        "-of-00002.safetensors";
  }

  // The first `count` tensors in one shard, the rest in the other.
  void write_shards(std::size_t count) {
    peft::StateDict shards[2];
    std::vector<std::pair<std::string, std::string>> map;
    for (const auto& item : all_) {
      const int i = map.size() < count ? 0 : 1;
      shards[i].insert(item.key(), item.value());
      map.emplace_back(item.key(), shard(i + 1));
    }
    peft::save_safetensors(shards[0], folder_ / shard(1));
    peft::save_safetensors(shards[1], folder_ / shard(2));
    write_index(map);
  }

  void write_index(
      const std::vector<std::pair<std::string, std::string>>& map) {
    std::string json;
    for (const auto& [key, file] : map) {
      json +=
          (json.empty() ? "" : ", ") + ("\"" + key + "\": \"" + file + "\"");
    }
    write_bytes(
        folder_ / "adapter_model.safetensors.index.json",
        R"({"metadata": {"total_size": 1}, "weight_map": {)" + json + "}}");
  }

  std::string error() {
    TextModel other = fresh();
    const auto text = error_of(
        ErrorKind::file, [&] { peft::load_adapter(*other, folder_.path()); });
    EXPECT_THROW(peft::adapters_of(*other), peft::Error);
    return text;
  }

  TempFolder folder_;
  TextModel model_ = fresh();
  peft::StateDict all_;
};

TEST_F(AdapterWeights, ShardsAreOneAdapter) {
  write_shards(3);
  const auto y = model_->forward(text_ids());
  TextModel other = fresh();
  peft::load_adapter(*other, folder_.path());
  EXPECT_TRUE(torch::equal(other->forward(text_ids()), y));
  TextModel third = fresh();
  peft::attach_adapter(*third, folder_.path(), "a").set_adapter("a");
  EXPECT_TRUE(torch::equal(third->forward(text_ids()), y));
  TextModel fourth = fresh();
  peft::LoraConfig config;
  config.target_modules = {"up", "down"};
  peft::inject_adapter_in_model(config, *fourth);
  peft::hotswap_adapter(*fourth, folder_.path());
  EXPECT_TRUE(torch::equal(fourth->forward(text_ids()), y));
}

TEST_F(AdapterWeights, OneFileStandsBeforeShards) {
  write_shards(3);
  peft::save_safetensors(all_, folder_ / "adapter_model.safetensors");
  fs::remove(folder_ / shard(1));
  EXPECT_EQ(peft::load_peft_weights(folder_.path()).size(), all_.size());
}

TEST_F(AdapterWeights, MissingShardsAreNamedWithWhatTheyHave) {
  write_shards(7);
  fs::remove(folder_ / shard(2));
  EXPECT_THAT(
      error(),
      AllOf(
          HasSubstr(shard(2)),
          HasSubstr("missing"),
          HasSubstr(all_.keys()[7])));
}

TEST_F(AdapterWeights, IndexAndShardsMustAgree) {
  write_shards(3);
  std::vector<std::pair<std::string, std::string>> map;
  for (const auto& key : all_.keys()) {
    map.emplace_back(key, shard(map.size() < 4 ? 1 : 2));
  }
  write_index(map);  // the fourth is in the second
  EXPECT_THAT(
      error(),
      AllOf(
          HasSubstr("'" + shard(1) + "' does not have '" + all_.keys()[3]),
          HasSubstr("weight_map does not put there")));
}

TEST_F(AdapterWeights, KeysInTwoShardsAreRefused) {
  write_shards(3);
  peft::save_safetensors(all_, folder_ / shard(2));
  EXPECT_THAT(
      error(),
      HasSubstr(
          "'" + all_.keys()[0] + "' is in '" + shard(1) + "' and '" +
          shard(2)));
  write_bytes(
      folder_ / "adapter_model.safetensors.index.json",
      R"({"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}})");
  EXPECT_THAT(error(), HasSubstr("the key \"a\" is twice"));
}

TEST_F(AdapterWeights, ShardsAreFilesOfTheFolder) {
  const TempFolder outside;
  peft::save_safetensors(all_, outside / "x.safetensors");
  for (const std::string& name :
       {(outside / "x.safetensors").string(),
        "../" + outside.path().filename().string() + "/x.safetensors",
        std::string("..\\x.safetensors"),
        std::string("sub/x.safetensors"),
        std::string(".safetensors"),
        std::string("adapter_config.json"),
        std::string("x.bin"),
        std::string()}) {
    std::string quoted = name;
    if (const auto at = quoted.find('\\'); at != std::string::npos) {
      quoted.insert(at, "\\");
    }
    write_index({{all_.keys()[0], quoted}});
    EXPECT_THAT(error(), HasSubstr("which is no .safetensors file of this"));
  }
}

TEST_F(AdapterWeights, BrokenIndexesAreRefused) {
  const auto error_with = [&](const std::string& json) {
    write_bytes(folder_ / "adapter_model.safetensors.index.json", json);
    return error();
  };
  EXPECT_THAT(error_with("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_with("[]"), HasSubstr("weight_map"));
  EXPECT_THAT(error_with("{}"), HasSubstr("weight_map"));
  EXPECT_THAT(error_with(R"({"weight_map": []})"), HasSubstr("weight_map"));
  EXPECT_THAT(
      error_with(R"({"weight_map": {"a": 1}})"), HasSubstr("weight_map['a']"));
}

// Random values under the keys of an adapter, as pickles.
class Pickles : public AdapterWeights {
 protected:
  void write(const fs::path& path, std::size_t from, std::size_t to) {
    std::map<std::string, std::string> entries;
    std::map<std::string, std::string> storages;
    for (std::size_t i = from; i < to; ++i) {
      const auto& item = all_[i];
      const torch::Tensor value = item.value().contiguous();
      const std::string record = std::to_string(i);
      entries[item.key()] =
          pickle::Tensor{
              .record = record,
              .length = value.numel(),
              .sizes = value.sizes().vec(),
              .strides = value.strides().vec()}
              .bytes();
      storages[record] = {
          static_cast<const char*>(value.const_data_ptr()), value.nbytes()};
    }
    write_torch_file(path, pickle::dict(entries), storages);
  }
};

TEST_F(Pickles, AreReadWhereThereIsNoSafetensors) {
  write(folder_ / "adapter_model.bin", 0, all_.size());
  const auto y = model_->forward(text_ids());
  TextModel other = fresh();
  peft::load_adapter(*other, folder_.path());
  EXPECT_TRUE(torch::equal(other->forward(text_ids()), y));
  // Saving stays safetensors.
  peft::save_pretrained(*other, folder_ / "again");
  EXPECT_TRUE(fs::exists(folder_ / "again/adapter_model.safetensors"));
}

TEST_F(Pickles, MayBeShards) {
  std::string map;
  for (std::size_t i = 0; i < all_.size(); ++i) {
    map += (map.empty() ? "\"" : ", \"") + all_[i].key() + "\": \"" +
        (i < 2 ? "one.bin" : "two.bin") + "\"";
  }
  write(folder_ / "one.bin", 0, 2);
  write(folder_ / "two.bin", 2, all_.size());
  write_bytes(
      folder_ / "adapter_model.bin.index.json",
      "{\"weight_map\": {" + map + "}}");
  const auto weights = peft::load_peft_weights(folder_.path());
  ASSERT_EQ(weights.size(), all_.size());
  for (const auto& item : all_) {
    EXPECT_TRUE(torch::equal(weights[item.key()], item.value()));
  }
}

}  // namespace
}  // namespace peft_test
