// SPDX-License-Identifier: Apache-2.0
// What an adapter's file holds of the base: the adapter's own, never written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <fstream>

#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/error_of.h"
#include "support/temp_folder.h"
#include "support/tied_model.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace fs = std::filesystem;
using peft::ErrorKind;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using torch::Tensor;

constexpr double scaling = 1.5;  // alpha 3, r 2

peft::LoraConfig lora(const std::vector<std::string>& targets) {
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  config.target_modules = targets;
  return config;
}

// A folder as PEFT would write it: `config` and these tensors.
void write_folder(
    const fs::path& folder,
    const peft::LoraConfig& config,
    const peft::StateDict& tensors) {
  fs::create_directories(folder);
  peft::StateDict named;
  for (const auto& item : tensors) {
    named.insert("base_model.model." + item.key(), item.value());
  }
  peft::save_safetensors(named, folder / "adapter_model.safetensors");
  std::ofstream(folder / "adapter_config.json") << peft::to_json(config);
}

class OwnBases : public testing::Test {
 protected:
  void SetUp() override { torch::manual_seed(1); }

  static peft::StateDict table_file(std::int64_t rows) {
    peft::StateDict state;
    state.insert("embed_tokens.lora_embedding_A", torch::randn({2, rows}));
    state.insert("embed_tokens.lora_embedding_B", torch::randn({6, 2}));
    return state;
  }
  // Base of embed_tokens in `state`, with its adapter on it.
  static Tensor table_of(peft::StateDict& state) {
    return state["embed_tokens.base_layer.weight"] +
        scaling *
        state["embed_tokens.lora_embedding_B"]
            .matmul(state["embed_tokens.lora_embedding_A"])
            .t();
  }

  TempFolder folder_;
  TiedModel model_;
  const Tensor ids_ = torch::tensor({{1, 2, 3}, {8, 0, 1}}, torch::kLong);
  const Tensor base_ = model_->embed_tokens->weight;
  const Tensor before_ = base_.detach().clone();
};

TEST_F(OwnBases, EqualTablesAreNothingNew) {
  auto state = table_file(9);
  state.insert("embed_tokens.base_layer.weight", before_.to(torch::kBFloat16));
  write_folder(folder_.path(), lora({"embed_tokens"}), state);
  peft::load_adapter(*model_, folder_.path());
  EXPECT_TRUE(torch::equal(base_, before_));
  EXPECT_FALSE(peft::get_peft_model_state_dict(*model_).contains(
      "embed_tokens.base_layer.weight"));
  peft::unload(*model_);
  EXPECT_TRUE(torch::equal(model_->embed_tokens->weight, before_));
}

TEST_F(OwnBases, OtherTablesAreCopiesThatActAtTheTiedHeadToo) {
  auto first = table_file(9), second = table_file(9);
  first.insert("embed_tokens.base_layer.weight", torch::randn({9, 6}));
  second.insert("embed_tokens.base_layer.weight", torch::randn({9, 6}));
  write_folder(folder_ / "a", lora({"embed_tokens"}), first);
  write_folder(folder_ / "b", lora({"embed_tokens"}), second);
  const Tensor plain = model_(ids_);
  const auto expected = [&](peft::StateDict& state) {
    return model_->forward_with(
        ids_, table_of(state), state["embed_tokens.base_layer.weight"]);
  };
  auto adapters = peft::load_adapter(*model_, folder_ / "a", "a");
  // Loading one that is not active changes nothing.
  const Tensor of_a = model_(ids_);
  EXPECT_TRUE(torch::allclose(of_a, expected(first), 1e-5, 1e-5));
  peft::load_adapter(*model_, folder_ / "b", "b", {.activate = false});
  EXPECT_TRUE(torch::equal(model_(ids_), of_a));
  adapters.set_adapter("b");
  EXPECT_TRUE(torch::allclose(model_(ids_), expected(second), 1e-5, 1e-5));
  adapters.set_adapter("a");
  EXPECT_TRUE(torch::equal(model_(ids_), of_a));
  {
    const peft::DisableAdapters scope(adapters);
    EXPECT_TRUE(torch::equal(model_(ids_), plain));
  }
  {
    const peft::BatchAdapters scope(adapters, {"b", "a"});
    const Tensor mixed = model_(ids_);
    EXPECT_TRUE(torch::allclose(mixed[0], expected(second)[0], 1e-5, 1e-5));
    EXPECT_TRUE(torch::allclose(mixed[1], expected(first)[1], 1e-5, 1e-5));
  }
  EXPECT_THAT(
      error_of(ErrorKind::state, [&] { adapters.set_adapter({"a", "b"}); }),
      HasSubstr("embed_tokens"));
  adapters.merge_adapter({"a"});
  EXPECT_TRUE(torch::allclose(model_(ids_), of_a, 1e-5, 1e-5));
  adapters.unmerge_adapter();
  // Saved under the same keys, and loaded again to the bit.
  peft::save_adapter(*model_, folder_ / "saved", "a");
  auto saved = peft::load_peft_weights(folder_ / "saved");
  EXPECT_EQ(saved.size(), 3);
  EXPECT_TRUE(torch::equal(
      saved["base_model.model.embed_tokens.base_layer.weight"],
      first["embed_tokens.base_layer.weight"]));
  adapters.unload();
  EXPECT_TRUE(base_.is_same(model_->embed_tokens->weight));
  EXPECT_TRUE(torch::equal(base_, before_));
  EXPECT_TRUE(torch::equal(model_(ids_), plain));
}

TEST_F(OwnBases, AttachedAdaptersHaveTheirOwn) {
  std::vector<peft::StateDict> files;
  auto adapters = peft::inject_adapter_in_model(lora({"body"}), *model_, "c");
  for (const std::string name : {"a", "b"}) {
    files.push_back(table_file(9));
    files.back().insert("embed_tokens.base_layer.weight", torch::randn({9, 6}));
    write_folder(folder_ / name, lora({"embed_tokens"}), files.back());
    peft::attach_adapter(*model_, folder_ / name, name);
  }
  peft::set_memory_budget(adapters, 1);  // one at a time
  for (const int i : {0, 1, 0}) {
    const peft::UseAdapter scope(adapters, i == 0 ? "a" : "b");
    EXPECT_TRUE(torch::allclose(
        model_(ids_),
        model_->forward_with(
            ids_,
            table_of(files[i]),
            files[i]["embed_tokens.base_layer.weight"]),
        1e-5,
        1e-5));
  }
  EXPECT_TRUE(torch::equal(base_, before_));
}

TEST_F(OwnBases, SwappingBringsThemAndTakesThemAway) {
  auto with = table_file(9), without = table_file(9);
  with.insert("embed_tokens.base_layer.weight", torch::randn({9, 6}));
  const auto config = lora({"embed_tokens"});
  write_folder(folder_ / "without", config, without);
  write_folder(folder_ / "with", config, with);
  auto adapters = peft::load_adapter(*model_, folder_ / "without", "a");
  const Tensor plain = model_(ids_);
  const peft::PinAdapters pinned(adapters);
  EXPECT_THAT(
      error_of(
          ErrorKind::config,
          [&] { peft::hotswap_adapter(*model_, folder_ / "with", "a"); }),
      HasSubstr("lm_head"));
  EXPECT_TRUE(torch::equal(model_(ids_), plain));
  EXPECT_TRUE(torch::equal(base_, before_));
}

TEST_F(OwnBases, SwappingOnAnUntiedTable) {
  TextModel model;
  const auto ids = text_ids();
  const Tensor table = model->named_parameters()["embedding.weight"];
  const Tensor before = table.detach().clone();
  const auto config = lora({"embedding"});
  const auto file = [&](const char* name, bool with_table) {
    peft::StateDict state;
    state.insert("embedding.lora_embedding_A", torch::randn({2, 10}));
    state.insert("embedding.lora_embedding_B", torch::randn({6, 2}));
    if (with_table) {
      state.insert("embedding.base_layer.weight", torch::randn({10, 6}));
    }
    write_folder(folder_ / name, config, state);
    TextModel fresh;
    peft::copy_into(*model, *fresh);
    peft::load_adapter(*fresh, folder_ / name);
    return fresh(ids);
  };
  const Tensor of_with = file("with", true),
               of_without = file("without", false);
  auto adapters = peft::load_adapter(*model, folder_ / "without", "a");
  EXPECT_TRUE(torch::equal(model(ids), of_without));
  {
    const peft::PinAdapters pinned(adapters);
    peft::hotswap_adapter(*model, folder_ / "with", "a");
    EXPECT_TRUE(torch::equal(model(ids), of_without));
  }
  EXPECT_TRUE(torch::equal(model(ids), of_with));
  EXPECT_EQ(adapters.parameters("a").size(), 3);
  model->to(torch::kDouble);
  EXPECT_EQ(model(ids).scalar_type(), torch::kDouble);
  model->to(torch::kFloat);
  peft::hotswap_adapter(*model, folder_ / "without", "a");
  EXPECT_TRUE(torch::equal(model(ids), of_without));
  EXPECT_EQ(adapters.parameters("a").size(), 2);
  auto copy = peft::clone(model);
  EXPECT_TRUE(torch::equal(copy->forward(ids), of_without));
  EXPECT_TRUE(torch::equal(table, before));
}

TEST_F(OwnBases, ClonesHaveThemToo) {
  TextModel model;
  const auto ids = text_ids();
  peft::StateDict state;
  state.insert("embedding.lora_embedding_A", torch::randn({2, 13}));
  state.insert("embedding.lora_embedding_B", torch::randn({6, 2}));
  state.insert("embedding.base_layer.weight", torch::randn({13, 6}));
  write_folder(folder_.path(), lora({"embedding"}), state);
  peft::load_adapter(*model, folder_.path());
  const Tensor beyond = torch::tensor({{11, 12, 3}}, torch::kLong);
  auto copy = peft::clone(model);
  EXPECT_TRUE(torch::equal(copy->forward(beyond), model(beyond)));
  EXPECT_TRUE(torch::equal(copy->forward(ids), model(ids)));
}

TEST_F(OwnBases, SetStateDictMakesThemAsWell) {
  auto state = table_file(9);
  state.insert("embed_tokens.base_layer.weight", torch::randn({9, 6}));
  auto adapters =
      peft::inject_adapter_in_model(lora({"embed_tokens"}), *model_);
  const auto report = peft::set_peft_model_state_dict(*model_, state);
  EXPECT_TRUE(report.missing_keys.empty());
  EXPECT_TRUE(report.unexpected_keys.empty());
  EXPECT_TRUE(torch::equal(base_, before_));
  EXPECT_TRUE(torch::allclose(
      model_(ids_),
      model_->forward_with(
          ids_, table_of(state), state["embed_tokens.base_layer.weight"]),
      1e-5,
      1e-5));
  // Again, with others: the same copy.
  state["embed_tokens.base_layer.weight"] = torch::randn({9, 6});
  peft::set_peft_model_state_dict(*model_, state);
  EXPECT_TRUE(torch::allclose(
      model_(ids_),
      model_->forward_with(
          ids_, table_of(state), state["embed_tokens.base_layer.weight"]),
      1e-5,
      1e-5));
  for (const Tensor& tensor : adapters.trainable_parameters()) {
    EXPECT_NE(tensor.sizes(), base_.sizes());  // never trained
  }
}

TEST_F(OwnBases, OtherLayersAreRefusedUnlessAskedFor) {
  peft::StateDict state;
  state.insert("body.lora_A.weight", torch::randn({2, 6}));
  state.insert("body.lora_B.weight", torch::randn({6, 2}));
  state.insert("body.base_layer.weight", torch::randn({6, 6}));
  state.insert("body.base_layer.bias", torch::randn({6}));
  write_folder(folder_.path(), lora({"body"}), state);
  const Tensor weight = model_->body->weight;
  const Tensor before = weight.detach().clone();
  const Tensor plain = model_(ids_);
  EXPECT_THAT(
      error_of(
          ErrorKind::shape,
          [&] { peft::load_adapter(*model_, folder_.path()); }),
      AllOf(
          HasSubstr("body.base_layer.weight"),
          HasSubstr("body.base_layer.bias"),
          HasSubstr("own_base_weights")));
  EXPECT_TRUE(torch::equal(model_(ids_), plain));
  peft::load_adapter(
      *model_, folder_.path(), "default", {.own_base_weights = true});
  EXPECT_TRUE(torch::equal(weight, before));
  const Tensor x = torch::randn({4, 6});
  const Tensor effective = state["body.base_layer.weight"] +
      scaling * state["body.lora_B.weight"].matmul(state["body.lora_A.weight"]);
  EXPECT_TRUE(torch::allclose(
      model_->body(x),
      torch::linear(x, effective, state["body.base_layer.bias"]),
      1e-5,
      1e-5));
  peft::save_pretrained(*model_, folder_ / "saved");
  EXPECT_EQ(peft::load_peft_weights(folder_ / "saved").size(), 4);
}

TEST_F(OwnBases, DoraStandsOnTheCopy) {
  auto config = lora({"embed_tokens"});
  config.use_dora = true;
  auto state = table_file(9);
  state.insert("embed_tokens.base_layer.weight", torch::randn({9, 6}));
  state.insert("embed_tokens.lora_magnitude_vector", torch::rand({6}) + 0.5);
  write_folder(folder_.path(), config, state);
  peft::load_adapter(*model_, folder_.path());
  // PEFT's DoRA on a table: one norm for each feature, over the rows.
  const Tensor sum = table_of(state);
  const Tensor table = sum * state["embed_tokens.lora_magnitude_vector"] /
      sum.norm(2, /*dim=*/0);
  EXPECT_TRUE(torch::allclose(
      model_->embed_tokens(ids_), torch::embedding(table, ids_), 1e-4, 1e-5));
}

// "embed_tokens" and "lm_head" whole, beside LoRA on another layer.
TEST_F(OwnBases, EnlargedVocabulariesAreTheAdaptersOwn) {
  for (const bool with_head : {true, false}) {
    TiedModel model;
    peft::copy_into(*model_, *model);
    peft::StateDict state;
    state.insert("body.lora_A.weight", torch::randn({2, 6}));
    state.insert("body.lora_B.weight", torch::randn({6, 2}));
    state.insert("embed_tokens.weight", torch::randn({12, 6}));
    if (with_head) {
      state.insert("lm_head.weight", torch::randn({12, 6}));
    }
    const Tensor head =
        state[with_head ? "lm_head.weight" : "embed_tokens.weight"];
    write_folder(folder_.path(), lora({"body"}), state);
    auto adapters = peft::load_adapter(*model, folder_.path(), "more");
    peft::inject_adapter_in_model(lora({"body"}), *model, "base size");
    adapters.set_adapter("more");
    const Tensor ids = torch::tensor({{1, 11, 9}}, torch::kLong);
    const Tensor x = torch::embedding(state["embed_tokens.weight"], ids);
    const Tensor effective = peft::base_weight(model->body->weight) +
        scaling *
            state["body.lora_B.weight"].matmul(state["body.lora_A.weight"]);
    const Tensor expected = torch::linear(
        torch::tanh(torch::linear(x, effective, model->body->bias)), head);
    EXPECT_TRUE(torch::allclose(model(ids), expected, 1e-4, 1e-5));
    {
      const peft::BatchAdapters scope(adapters, {"more", "base size"});
      EXPECT_THAT(
          error_of(ErrorKind::unsupported, [&] { model(ids_); }),
          HasSubstr("vocabulary"));
    }
    adapters.set_adapter("base size");
    EXPECT_EQ(model(ids_).size(-1), 9);
    peft::save_adapter(*model, folder_ / "saved", "more");
    EXPECT_EQ(peft::load_peft_weights(folder_ / "saved").size(), state.size());
    if (with_head) {  // two tables, and the layers share one tensor
      EXPECT_THAT(
          error_of(
              ErrorKind::state, [&] { adapters.merge_and_unload({"more"}); }),
          HasSubstr("lm_head"));
      continue;
    }
    adapters.merge_and_unload({"more"});
    EXPECT_TRUE(torch::allclose(model(ids), expected, 1e-4, 1e-5));
    EXPECT_EQ(model->embed_tokens->options.num_embeddings(), 12);
  }
}

TEST_F(OwnBases, EnlargedVocabulariesOfAdaptedTablesAndSavedModules) {
  auto state = table_file(12);
  state.insert("embed_tokens.base_layer.weight", torch::randn({12, 6}));
  const Tensor ids = torch::tensor({{1, 11, 9}}, torch::kLong);
  write_folder(folder_ / "adapted", lora({"embed_tokens"}), state);
  auto adapters = peft::load_adapter(*model_, folder_ / "adapted", "a");
  EXPECT_TRUE(torch::allclose(
      model_(ids),
      model_->forward_with(
          ids, table_of(state), state["embed_tokens.base_layer.weight"]),
      1e-4,
      1e-5));
  auto config = lora({"body"});
  config.modules_to_save = {"embed_tokens", "lm_head"};
  peft::StateDict saved;
  saved.insert("body.lora_A.weight", torch::randn({2, 6}));
  saved.insert("body.lora_B.weight", torch::zeros({6, 2}));
  saved.insert("embed_tokens.weight", torch::randn({12, 6}));
  saved.insert("lm_head.weight", torch::randn({12, 6}));
  write_folder(folder_ / "saved", config, saved);
  peft::load_adapter(*model_, folder_ / "saved", "b", {.is_trainable = true});
  const Tensor expected = model_->forward_with(
      ids, saved["embed_tokens.weight"], saved["lm_head.weight"]);
  EXPECT_TRUE(torch::allclose(model_(ids), expected, 1e-4, 1e-5));
  model_(ids).sum().backward();
  EXPECT_TRUE(
      peft::get_peft_model_state_dict(*model_, "b")["embed_tokens.weight"]
          .grad()
          .defined());
  adapters.unload();
  EXPECT_TRUE(torch::equal(model_->embed_tokens->weight, before_));
}

TEST_F(OwnBases, RowsOfAnotherModelsHeadAreAMistake) {
  peft::StateDict state;
  state.insert("body.lora_A.weight", torch::randn({2, 6}));
  state.insert("body.lora_B.weight", torch::randn({6, 2}));
  state.insert("body.base_layer.weight", torch::randn({7, 6}));
  write_folder(folder_.path(), lora({"body"}), state);
  EXPECT_THAT(
      error_of(
          ErrorKind::shape,
          [&] {
            peft::load_adapter(
                *model_, folder_.path(), "default", {.own_base_weights = true});
          }),
      AllOf(HasSubstr("[7, 6]"), Not(HasSubstr("own_base_weights"))));
}

}  // namespace
}  // namespace peft_test
