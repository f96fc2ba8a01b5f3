// SPDX-License-Identifier: Apache-2.0
// Adapter folders: round trips, and folders that do not fit or are broken.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <fstream>

#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/error_of.h"
#include "support/file_size_limit.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace fs = std::filesystem;
namespace nn = torch::nn;
using peft::ErrorKind;
using testing::AllOf;
using testing::HasSubstr;
using torch::Tensor;

class AdapterFolder : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(0);
    config_.r = 2;
    config_.lora_alpha = 3;
    config_.target_modules = {"up", "down", "embedding"};
    config_.modules_to_save = {"head"};
  }

  // A model with the base weights of model_ and no adapter.
  TextModel fresh() {
    torch::manual_seed(0);
    return TextModel();
  }

  peft::Adapters inject_random(const std::string& name = "default") {
    auto adapters = peft::inject_adapter_in_model(config_, *model_, name);
    randomise(adapters.parameters(name));
    return adapters;
  }

  static std::string bytes(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  TempFolder folder_;
  fs::path path_ = folder_.path() / "adapter";
  peft::LoraConfig config_;
  TextModel model_ = fresh();
};

TEST_F(AdapterFolder, RoundTripIsExact) {
  inject_random();
  peft::save_pretrained(*model_, path_);
  TextModel other = fresh();
  auto loaded = peft::load_adapter(*other, path_);
  EXPECT_TRUE(
      torch::equal(other->forward(text_ids()), model_->forward(text_ids())));
  EXPECT_TRUE(loaded.trainable_parameters().empty());
  TextModel third = fresh();
  loaded = peft::load_adapter(*third, path_, "again", {.is_trainable = true});
  EXPECT_EQ(loaded.trainable_parameters().size(), 12);
  peft::save_adapter(*third, folder_.path() / "second", "again");
  for (const char* file :
       {"adapter_config.json", "adapter_model.safetensors"}) {
    EXPECT_EQ(bytes(folder_.path() / "second" / file), bytes(path_ / file));
  }
}

TEST_F(AdapterFolder, OtherNamesGoIntoFoldersOfTheirOwn) {
  inject_random();
  inject_random("customer-7");
  peft::save_pretrained(*model_, path_);
  EXPECT_TRUE(fs::exists(path_ / "adapter_model.safetensors"));
  EXPECT_TRUE(fs::exists(path_ / "customer-7" / "adapter_config.json"));
  EXPECT_EQ(
      peft::load_peft_weights(path_).keys()[0].substr(0, 17),
      "base_model.model.");
}

TEST_F(AdapterFolder, PatternsKeepTheirMeaningWhateverTheirOrder) {
  config_.modules_to_save = {};
  config_.rank_pattern = {{"up", 3}, {"blocks.0.up", 5}};
  config_.alpha_pattern = {{"up", 6}, {"blocks.1.up", 1}};
  auto adapters = inject_random();
  peft::save_pretrained(*model_, path_);
  TextModel other = fresh();
  auto loaded = peft::load_adapter(*other, path_);
  EXPECT_EQ(loaded.scaling("default"), adapters.scaling("default"));
  EXPECT_TRUE(
      torch::equal(other->forward(text_ids()), model_->forward(text_ids())));
}

TEST_F(AdapterFolder, RanksThatTheConfigSpeaksOfFollowTheTensors) {
  config_.modules_to_save = {};
  config_.target_modules = {"up"};
  config_.rank_pattern = {{"1.up", 5}};
  inject_random();
  peft::save_pretrained(*model_, path_);
  // As when JSON has lost the patterns' order: the shapes know better.
  auto state = peft::load_peft_weights(path_);
  state["base_model.model.blocks.0.up.lora_A.weight"] = torch::ones({5, 6});
  state["base_model.model.blocks.0.up.lora_B.weight"] = torch::ones({5, 5});
  peft::save_safetensors(state, path_ / "adapter_model.safetensors");
  TextModel other = fresh();
  auto loaded = peft::load_adapter(*other, path_);
  EXPECT_DOUBLE_EQ(loaded.scaling("default").at("blocks.0.up"), 3.0 / 5);
}

TEST_F(AdapterFolder, AnotherRankThanTheConfigsIsAnError) {
  config_.modules_to_save = {};
  config_.target_modules = {"up"};
  inject_random();
  peft::save_pretrained(*model_, path_);
  auto state = peft::load_peft_weights(path_);
  state["base_model.model.blocks.0.up.lora_A.weight"] = torch::ones({7, 6});
  state["base_model.model.blocks.0.up.lora_B.weight"] = torch::ones({5, 7});
  peft::save_safetensors(state, path_ / "adapter_model.safetensors");
  TextModel other = fresh();
  EXPECT_THAT(
      error_of(ErrorKind::shape, [&] { peft::load_adapter(*other, path_); }),
      HasSubstr("[7, 6]"));
}

TEST_F(AdapterFolder, AFailedLoadLeavesBiasesAndAdaptersAlone) {
  config_.bias = "all";
  auto adapters = inject_random();
  peft::save_pretrained(*model_, path_);
  peft::StateDict some;
  for (const auto& item : peft::load_peft_weights(path_)) {
    if (item.key().find("up.lora_B") == std::string::npos) {
      some.insert(item.key(), item.value().clone());
    }
  }
  peft::save_safetensors(some, path_ / "adapter_model.safetensors");
  TextModel other = fresh();
  const Tensor bias = other->named_parameters()["blocks.0.up.bias"];
  const Tensor before = bias.clone();
  error_of(ErrorKind::shape, [&] { peft::load_adapter(*other, path_); });
  EXPECT_TRUE(torch::equal(bias, before));
}

TEST_F(AdapterFolder, SecondNamesOfSavedBiasesAreTolerated) {
  inject_random();
  peft::save_pretrained(*model_, path_);
  peft::StateDict state;
  for (const auto& item : peft::load_peft_weights(path_)) {
    state.insert(item.key(), item.value().clone());
  }
  for (const char* key :
       {"head.original_module.bias",
        "head.modules_to_save.bias",
        "head.modules_to_save.default.bias"}) {
    state.insert(std::string("base_model.model.") + key, torch::ones({3}));
  }
  peft::save_safetensors(state, path_ / "adapter_model.safetensors");
  TextModel other = fresh();
  peft::load_adapter(*other, path_);
  EXPECT_TRUE(
      torch::equal(other->forward(text_ids()), model_->forward(text_ids())));
}

TEST_F(AdapterFolder, AFolderThatCannotBeMadeIsMetBeforeAnyFile) {
  inject_random();
  peft::save_pretrained(*model_, path_);
  const auto weights = bytes(path_ / "adapter_model.safetensors");
  auto adapters = inject_random("two");
  randomise(adapters.parameters("default"));
  std::ofstream(path_ / "two") << "a file";
  error_of(ErrorKind::file, [&] { peft::save_pretrained(*model_, path_); });
  EXPECT_EQ(bytes(path_ / "adapter_model.safetensors"), weights);
}

TEST_F(AdapterFolder, MissingAndSurplusTensorsAreErrorsUnlessPartial) {
  inject_random();
  peft::save_pretrained(*model_, path_);
  const auto all = peft::load_peft_weights(path_);
  peft::StateDict some;
  for (const auto& item : all) {
    if (item.key() != "base_model.model.head.bias") {
      some.insert(item.key(), item.value().clone());
    }
  }
  some.insert("base_model.model.tail.lora_A.weight", torch::ones({2, 2}));
  peft::save_safetensors(some, path_ / "adapter_model.safetensors");
  TextModel other = fresh();
  const Tensor before = other->forward(text_ids());
  EXPECT_THAT(
      error_of(ErrorKind::shape, [&] { peft::load_adapter(*other, path_); }),
      AllOf(HasSubstr("head.bias"), HasSubstr("tail.lora_A")));
  EXPECT_THROW(peft::adapters_of(*other), peft::Error);
  EXPECT_TRUE(torch::equal(other->forward(text_ids()), before));
  CollectWarnings warnings;
  peft::load_adapter(*other, path_, "default", {.partial = true});
  EXPECT_THAT(warnings.all(), HasSubstr("tail.lora_A"));
}

TEST_F(AdapterFolder, AnotherModelIsRefusedWithBothShapes) {
  inject_random();
  peft::save_pretrained(*model_, path_);
  auto state = peft::load_peft_weights(path_);
  state["base_model.model.head.weight"] = torch::ones({7, 6});
  peft::save_safetensors(state, path_ / "adapter_model.safetensors");
  TextModel other = fresh();
  EXPECT_THAT(
      error_of(ErrorKind::shape, [&] { peft::load_adapter(*other, path_); }),
      AllOf(HasSubstr("[7, 6]"), HasSubstr("[3, 6]")));
  EXPECT_THROW(peft::adapters_of(*other), peft::Error);
}

// The text of a file with `b` in place of `a`.
void replace_in(
    const fs::path& path,
    const std::string& a,
    const std::string& b) {
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto at = text.find(a);
  ASSERT_NE(at, std::string::npos) << a;
  std::ofstream(path, std::ios::binary) << text.replace(at, a.size(), b);
}

// As Python PEFT writes it for a small init_r and the default target_r.
TEST_F(AdapterFolder, AScheduleThatCannotTrainStillRuns) {
  peft::AdaLoraConfig config;
  config.init_r = 3;
  config.target_r = 2;
  config.lora_alpha = 5;
  config.total_step = 10;
  config.target_modules = {"up"};
  auto adapters = peft::inject_adapter_in_model(config, *model_);
  randomise(adapters.parameters("default"));
  peft::save_pretrained(*model_, path_);
  replace_in(
      path_ / "adapter_config.json", "\"target_r\": 2", "\"target_r\": 8");
  replace_in(
      path_ / "adapter_config.json",
      "\"total_step\": 10",
      "\"total_step\": null");
  TextModel other = fresh();
  peft::load_adapter(*other, path_);
  EXPECT_TRUE(
      torch::equal(other->forward(text_ids()), model_->forward(text_ids())));
  TextModel third = fresh();
  EXPECT_THAT(
      error_of(
          ErrorKind::config,
          [&] {
            peft::load_adapter(
                *third, path_, "default", {.is_trainable = true});
          }),
      AllOf(
          HasSubstr("target_r = 8 is above init_r = 3"),
          HasSubstr("total_step")));
}

TEST_F(AdapterFolder, ARankThatNoMemoryHoldsIsAnError) {
  config_.modules_to_save = {};
  inject_random();
  peft::save_pretrained(*model_, path_);
  replace_in(
      path_ / "adapter_config.json", "\"r\": 2", "\"r\": 4611686018427387904");
  TextModel other = fresh();
  EXPECT_THAT(
      error_of(ErrorKind::config, [&] { peft::load_adapter(*other, path_); }),
      HasSubstr("4611686018427387904"));
  EXPECT_THROW(peft::adapters_of(*other), peft::Error);
}

TEST_F(AdapterFolder, BrokenFoldersAreRefusedBeforeAnythingChanges) {
  TextModel other = fresh();
  const auto refuse = [&](ErrorKind kind) {
    const auto text =
        error_of(kind, [&] { peft::load_adapter(*other, path_); });
    EXPECT_THROW(peft::adapters_of(*other), peft::Error);
    return text;
  };
  EXPECT_THAT(refuse(ErrorKind::file), HasSubstr("adapter_config.json"));
  inject_random();
  peft::save_pretrained(*model_, path_);
  fs::resize_file(path_ / "adapter_model.safetensors", 100);
  EXPECT_THAT(refuse(ErrorKind::file), HasSubstr("adapter_model.safetensors"));
  fs::remove(path_ / "adapter_model.safetensors");
  EXPECT_THAT(refuse(ErrorKind::file), HasSubstr("adapter_model.safetensors"));
  std::ofstream(path_ / "adapter_model.bin") << "x";
  EXPECT_THAT(refuse(ErrorKind::file), HasSubstr("adapter_model.bin"));
  std::ofstream(path_ / "adapter_config.json") << "{";
  refuse(ErrorKind::file);
}

TEST_F(AdapterFolder, AFullDiskLeavesTheOldFolder) {
  auto adapters = inject_random();
  peft::save_pretrained(*model_, path_);
  const auto config = bytes(path_ / "adapter_config.json");
  const auto weights = bytes(path_ / "adapter_model.safetensors");
  randomise(adapters.parameters("default"));
  for (const rlim_t size : {rlim_t{10}, rlim_t{1600}}) {
    {
      const FileSizeLimit limit(size);
      error_of(ErrorKind::file, [&] { peft::save_pretrained(*model_, path_); });
    }
    EXPECT_EQ(bytes(path_ / "adapter_config.json"), config);
    EXPECT_EQ(bytes(path_ / "adapter_model.safetensors"), weights);
    EXPECT_EQ(
        std::distance(fs::directory_iterator(path_), fs::directory_iterator()),
        2);
  }
}

TEST_F(AdapterFolder, AFileInThePlaceOfTheFolderIsRefused) {
  inject_random();
  std::ofstream(path_) << "here";
  error_of(ErrorKind::file, [&] { peft::save_pretrained(*model_, path_); });
}

TEST_F(AdapterFolder, WholeTablesBesideAnEmbeddingsAdapterAreTaken) {
  config_.modules_to_save = {};
  inject_random();
  peft::save_pretrained(*model_, path_);
  peft::StateDict state;
  for (const auto& item : peft::load_peft_weights(path_)) {
    state.insert(item.key(), item.value());
  }
  state.insert(
      "base_model.model.embedding.base_layer.weight", torch::ones({10, 6}));
  peft::save_safetensors(state, path_ / "adapter_model.safetensors");
  TextModel other = fresh();
  const Tensor table = other->named_parameters()["embedding.weight"];
  const Tensor before = table.clone();
  peft::load_adapter(*other, path_);
  EXPECT_TRUE(torch::equal(table, before));
  EXPECT_TRUE(torch::equal(
      peft::get_peft_model_state_dict(*other)["embedding.base_layer.weight"],
      torch::ones({10, 6})));
}

// PEFT matches modules_to_save by the last letters of a path.
class NormsImpl : public torch::nn::Module {
 public:
  NormsImpl() {
    register_module("block", block_);
    block_->register_module("query", torch::nn::Linear(4, 4));
    block_->register_module(
        "norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({4})));
    block_->register_module(
        "q_norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({4})));
  }

 private:
  struct Block : torch::nn::Module {};
  std::shared_ptr<Block> block_ = std::make_shared<Block>();
};

peft::LoraConfig norm_config() {
  peft::LoraConfig config;
  config.target_modules = {"query"};
  config.modules_to_save = {"norm"};
  return config;
}

// What PEFT trained with layer_replication: its file is for the deeper model.
class Replicated : public AdapterFolder {
 protected:
  void SetUp() override {
    AdapterFolder::SetUp();
    inject_random();
    peft::save_pretrained(*model_, path_);
    const std::string null = "\"layer_replication\": null";
    std::string json = bytes(path_ / "adapter_config.json");
    json.replace(
        json.find(null),
        null.size(),
        "\"layer_replication\": [[0, 1], [0, 1]]");
    std::ofstream(path_ / "adapter_config.json") << json;
  }
};

TEST_F(Replicated, GoesIntoAModelThatHasAllTheLayers) {
  const Tensor y = model_->forward(text_ids());
  auto model = fresh();
  auto adapters = peft::load_adapter(*model, path_);
  EXPECT_TRUE(torch::equal(model->forward(text_ids()), y));
  // It stays what it was, for PEFT, in all that may follow.
  peft::hotswap_adapter(*model, path_);
  peft::attach_adapter(*model, path_, "attached");
  adapters.set_adapter("attached");
  EXPECT_TRUE(torch::equal(model->forward(text_ids()), y));
  auto copy = peft::clone(model);
  EXPECT_TRUE(torch::equal(copy->forward(text_ids()), y));
  peft::save_adapter(*model, folder_ / "again", "default");
  const auto config = peft::load_adapter_config(folder_ / "again");
  EXPECT_EQ(
      dynamic_cast<const peft::LoraConfig&>(*config).layer_replication,
      dynamic_cast<const peft::LoraConfig&>(*peft::load_adapter_config(path_))
          .layer_replication);
}

TEST_F(Replicated, IsRefusedByAModelThatHasNot) {
  nn::Sequential block;
  block->push_back("up", nn::Linear(6, 5));
  block->push_back("down", nn::Linear(nn::LinearOptions(5, 6).bias(false)));
  nn::ModuleList blocks(block);
  nn::Sequential shallow;
  shallow->register_module("blocks", blocks.ptr());
  shallow->register_module("embedding", nn::Embedding(10, 6));
  shallow->register_module("head", nn::Linear(6, 3));
  EXPECT_THAT(
      error_of(
          ErrorKind::unsupported, [&] { peft::load_adapter(*shallow, path_); }),
      AllOf(
          HasSubstr("layer_replication = [[0,1],[0,1]]"),
          HasSubstr("has no 'blocks.1.down', 'blocks.1.up'; build the model "
                    "with all the layers")));
  const auto config = peft::load_adapter_config(path_);
  auto model = fresh();
  EXPECT_THAT(
      error_of(
          ErrorKind::unsupported,
          [&] { peft::inject_adapter_in_model(*config, *model); }),
      HasSubstr("layer_replication = [[0,1],[0,1]] repeats layers"));
}

TEST(SavedModules, AreSpelledOutWherePeftWouldTakeMore) {
  const TempFolder folder;
  auto shared = std::make_shared<NormsImpl>();
  peft::inject_adapter_in_model(norm_config(), *shared);
  peft::save_pretrained(*shared, folder.path());
  const auto config = peft::load_adapter_config(folder.path());
  EXPECT_EQ(config->modules_to_save, std::vector<std::string>{"block.norm"});
}

TEST(SavedModules, AreLoadedAsPeftTookThem) {
  const TempFolder folder;
  auto first = std::make_shared<NormsImpl>();
  auto both = norm_config();
  both.modules_to_save = {"norm", "q_norm"};
  peft::inject_adapter_in_model(both, *first);
  peft::save_pretrained(*first, folder.path());
  std::string json = read_bytes(folder / "adapter_config.json");
  const auto list = json.find("\"modules_to_save\": [");
  ASSERT_NE(list, std::string::npos);
  json.replace(
      list, json.find(']', list) + 1 - list, "\"modules_to_save\": [\"norm\"]");
  write_bytes(folder / "adapter_config.json", json);

  auto second = std::make_shared<NormsImpl>();
  peft::load_adapter(*second, folder.path());
  EXPECT_TRUE(
      peft::get_peft_model_state_dict(*second).contains("block.q_norm.weight"));
}

}  // namespace
}  // namespace peft_test
