// SPDX-License-Identifier: Apache-2.0
// Adapters made of adapters, in a model. The mathematics on one weight has its
// tests in methods/, and parity with Python PEFT in parity/.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/collect_warnings.h"
#include "support/message_of.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using testing::HasSubstr;
using torch::Tensor;

struct MixedModelImpl : nn::Module {
  MixedModelImpl() {
    table = register_module("table", nn::Embedding(9, 6));
    conv = register_module(
        "conv", nn::Conv1d(nn::Conv1dOptions(6, 4, 3).padding(1).groups(2)));
    up = register_module("up", nn::Linear(4, 5));
    head = register_module("head", nn::Linear(5, 3));
  }
  Tensor forward(const Tensor& ids) {
    return head(
        torch::tanh(up(conv(table(ids).transpose(1, 2)).transpose(1, 2))));
  }
  nn::Embedding table{nullptr};
  nn::Conv1d conv{nullptr};
  nn::Linear up{nullptr}, head{nullptr};
};
TORCH_MODULE(MixedModel);

class Combining : public testing::Test {
 protected:
  void SetUp() override { torch::manual_seed(21); }

  static peft::LoraConfig lora(int64_t r) {
    peft::LoraConfig config;
    config.r = r;
    config.lora_alpha = 5;
    config.target_modules = {"table", "conv", "up", "head"};
    return config;
  }

  peft::Adapters inject(
      const peft::AdapterConfig& config,
      const std::string& name) {
    auto adapters = peft::inject_adapter_in_model(config, *model_, name);
    randomise(adapters.parameters(name));
    return adapters;
  }

  // The change that an adapter makes to a layer's weight; of a kernel in
  // groups, what merging makes of it.
  Tensor delta(const std::string& name, const Tensor& weight) {
    auto adapters = peft::adapters_of(*model_);
    adapters.merge_adapter({name});
    const Tensor merged = peft::effective_weight(weight).detach();
    adapters.unmerge_adapter();
    const Tensor base = peft::base_weight(weight).detach();
    return merged.sizes() == base.sizes() ? merged - base : merged;
  }

  std::vector<Tensor> weights() {
    return {model_->table->weight, model_->up->weight, model_->head->weight};
  }

  Tensor run(const std::string& name) {
    const peft::UseAdapter scope(peft::adapters_of(*model_), name);
    return model_->forward(torch::tensor({{1, 2, 8}, {0, 3, 4}}));
  }

  MixedModel model_;
};

TEST_F(Combining, CatIsTheSumOfAllUpdatesWhateverTheirScales) {
  peft::LoraConfig stabilised = lora(4);
  stabilised.use_rslora = true;
  stabilised.rank_pattern = {{"up", 2}};
  peft::LoraConfig fewer = lora(2);
  fewer.target_modules = {"up", "head"};
  inject(lora(2), "a");
  inject(stabilised, "b");
  auto adapters = inject(fewer, "c");
  adapters.set_scale("a", 1.5);
  const std::vector<double> w = {0.7, -1.2, 2};
  peft::add_weighted_adapter(
      *model_, {"a", "b", "c"}, w, "sum", {.combination_type = "cat"});
  EXPECT_EQ(adapters.active_adapters(), std::vector<std::string>{"c"});
  for (const Tensor& weight : weights()) {
    const Tensor expected = w[0] * delta("a", weight) +
        w[1] * delta("b", weight) + w[2] * delta("c", weight);
    EXPECT_TRUE(torch::allclose(delta("sum", weight), expected, 1e-4, 1e-5));
  }
  EXPECT_FALSE(adapters.parameters("sum").front().requires_grad());
}

TEST_F(Combining, AdaptersOfDifferentLayersNeedNoWarning) {
  peft::LoraConfig fewer = lora(2);
  fewer.target_modules = {"up"};
  inject(fewer, "a");
  inject(lora(2), "b");
  const CollectWarnings warnings;
  peft::add_weighted_adapter(
      *model_, {"a", "b"}, {1, 1}, "sum", {.combination_type = "cat"});
  EXPECT_EQ(warnings.all(), "");
}

TEST_F(Combining, SvdOfEnoughRankIsTheSum) {
  inject(lora(2), "a");
  inject(lora(2), "b");
  peft::add_weighted_adapter(
      *model_, {"a", "b"}, {0.5, -2}, "sum", {.svd_rank = 4});
  peft::add_weighted_adapter(
      *model_, {"a", "b"}, {0.5, -2}, "cat", {.combination_type = "cat"});
  EXPECT_TRUE(torch::allclose(run("sum"), run("cat"), 1e-4, 1e-5));
}

TEST_F(Combining, GroupsShareTheNextRankTheyCan) {
  inject(lora(2), "a");
  peft::LoraConfig odd = lora(3);
  odd.target_modules = {"up"};
  inject(odd, "b");
  peft::add_weighted_adapter(
      *model_, {"a", "b"}, {1, 0.5}, "cat", {.combination_type = "cat"});
  peft::add_weighted_adapter(*model_, {"a", "b"}, {1, 0.5}, "svd");
  const Tensor before = run("cat");
  peft::resize_adapter(*model_, 7, "cat");
  EXPECT_TRUE(torch::allclose(run("cat"), before, 1e-4, 1e-5));
}

TEST_F(Combining, SubtractingTakesAnAdapterOff) {
  inject(lora(2), "a");
  inject(lora(4), "b");
  peft::add_weighted_adapter(
      *model_, {"a", "b"}, {1, 1}, "both", {.combination_type = "cat"});
  peft::subtract_adapter(*model_, "both", "b", "rest");
  EXPECT_TRUE(torch::allclose(run("rest"), run("a"), 1e-4, 1e-5));
}

TEST_F(Combining, BiasesAreSummed) {
  peft::LoraConfig biased = lora(2);
  biased.target_modules = {"up", "head"};
  biased.lora_bias = true;
  peft::LoraConfig plain = biased;
  plain.lora_bias = false;
  inject(biased, "a");
  inject(plain, "b");
  peft::add_weighted_adapter(
      *model_, {"a"}, {2}, "twice", {.combination_type = "cat"});
  auto adapters = peft::adapters_of(*model_);
  adapters.set_scale("a", 2);
  EXPECT_TRUE(torch::allclose(run("twice"), run("a"), 1e-4, 1e-5));
  peft::add_weighted_adapter(
      *model_, {"a", "b"}, {0.5, 1}, "sum", {.combination_type = "cat"});
  adapters.set_scale("a", 1);
  adapters.set_adapter({"a", "b"});
  const Tensor together =
      model_->forward(torch::tensor({{1, 2, 8}, {0, 3, 4}}));
  EXPECT_TRUE(torch::allclose(run("sum"), together, 1e-4, 1e-5));
}

TEST_F(Combining, Ia3GainsAreSummed) {
  peft::IA3Config ia3;
  ia3.target_modules = {"up", "head"};
  ia3.feedforward_modules = {"head"};
  inject(ia3, "a");
  auto adapters = inject(ia3, "b");
  peft::add_weighted_adapter(*model_, {"a", "b"}, {0.25, 3}, "sum");
  const auto a = adapters.parameters("a");
  const auto b = adapters.parameters("b");
  const auto sum = adapters.parameters("sum");
  for (std::size_t i = 0; i < sum.size(); ++i) {
    EXPECT_TRUE(torch::allclose(sum[i], 0.25 * a[i] + 3 * b[i]));
  }
}

// A side of a square kernel cannot be told by shapes.
TEST_F(Combining, Ia3LayersKeepTheirSides) {
  nn::Sequential model(nn::Conv1d(4, 4, 1), nn::Linear(4, 3));
  const Tensor x = torch::randn({2, 4, 4});
  const auto put = [&](const std::string& layer, bool feedforward) {
    peft::IA3Config ia3;
    ia3.target_modules = {layer};
    ia3.feedforward_modules = peft::ModuleChoice(
        feedforward ? std::vector<std::string>{layer}
                    : std::vector<std::string>{});
    const std::string name = layer + (feedforward ? "_inputs" : "_outputs");
    auto adapters = peft::inject_adapter_in_model(ia3, *model, name);
    randomise(adapters.parameters(name));
    return adapters;
  };
  put("1", false);
  auto adapters = put("0", true);
  peft::add_weighted_adapter(*model, {"1_outputs", "0_inputs"}, {1, 1}, "sum");
  adapters.set_adapter({"1_outputs", "0_inputs"});
  const Tensor both = model->forward(x);
  adapters.set_adapter("sum");
  EXPECT_TRUE(torch::allclose(model->forward(x), both));
  put("0", false);
  EXPECT_THAT(
      message_of([&] {
        peft::add_weighted_adapter(
            *model, {"0_inputs", "0_outputs"}, {1, 1}, "other");
      }),
      HasSubstr(
          "'0_inputs' scales the inputs of '0', '0_outputs' its outputs"));
}

// Half of 2 x 4 entries, and not half of what rank 4 would have.
TEST_F(Combining, PruningKeepsAShareOfTheLayersOwnRank) {
  peft::LoraConfig config = lora(4);
  config.target_modules = {"up", "head"};
  config.rank_pattern = {{"up", 2}};
  inject(config, "a");
  inject(config, "b");
  peft::add_weighted_adapter(
      *model_,
      {"a", "b"},
      {1, 0},
      "pruned",
      {.combination_type = "magnitude_prune", .density = 0.5});
  const auto weights = peft::get_peft_model_state_dict(*model_, "pruned");
  const auto kept = torch::count_nonzero(weights["up.lora_A.weight"]);
  EXPECT_EQ(kept.item<int64_t>(), 4);
}

TEST_F(Combining, DareIsReproducibleByItsGenerator) {
  inject(lora(2), "a");
  auto adapters = inject(lora(2), "b");
  const auto combine = [&](const std::string& name, std::uint64_t seed) {
    at::Generator random = at::detail::createCPUGenerator(seed);
    peft::add_weighted_adapter(
        *model_,
        {"a", "b"},
        {1, 1},
        name,
        {.combination_type = "dare_linear",
         .density = 0.5,
         .generator = random});
    return adapters.parameters(name).front();
  };
  const Tensor one = combine("one", 5);
  EXPECT_TRUE(torch::equal(one, combine("two", 5)));
  EXPECT_FALSE(torch::equal(one, combine("three", 6)));
}

TEST_F(Combining, MistakesAreAllNamedAndLeaveNoTrace) {
  inject(lora(2), "a");
  inject(lora(4), "b");
  peft::IA3Config ia3;
  ia3.target_modules = {"up"};
  ia3.feedforward_modules = peft::ModuleChoice(std::vector<std::string>{});
  auto adapters = inject(ia3, "c");
  EXPECT_THAT(
      message_of([&] {
        peft::add_weighted_adapter(
            *model_,
            {"a", "x", "a", "c"},
            {1, 2, NAN},
            "b",
            {.combination_type = "tie",
             .svd_rank = 0,
             .density = 1.5,
             .majority_sign_method = "most"});
      }),
      testing::AllOf(
          HasSubstr("combination_type = 'tie' (did you mean 'ties'?)"),
          HasSubstr("svd_rank = 0"),
          HasSubstr("density = 1.5"),
          HasSubstr("majority_sign_method = 'most'"),
          HasSubstr("4 adapters and 3 weights"),
          HasSubstr("no adapter 'x'"),
          HasSubstr("'a' is named twice"),
          HasSubstr("an adapter 'b' already")));
  EXPECT_THAT(
      message_of([&] {
        peft::add_weighted_adapter(*model_, {"a", "c"}, {1, 1}, "d");
      }),
      HasSubstr("'a' is of method LORA and 'c' of IA3"));
  EXPECT_THAT(
      message_of([&] {
        peft::add_weighted_adapter(
            *model_, {"a", "b"}, {1, 1}, "d", {.combination_type = "linear"});
      }),
      HasSubstr("needs equal ranks (a: 2, b: 4)"));
  EXPECT_THAT(
      message_of([&] {
        peft::add_weighted_adapter(
            *model_, {"a", "b"}, {1, 1}, "d", {.combination_type = "ties_svd"});
      }),
      HasSubstr("set density"));
  {
    const torch::NoGradGuard no_grad;
    adapters.parameters("b").front().flatten()[0] = NAN;
  }
  EXPECT_THAT(
      message_of([&] {
        peft::add_weighted_adapter(
            *model_, {"a", "b"}, {1, 1}, "d", {.combination_type = "cat"});
      }),
      HasSubstr("'b' has NaN or infinite values on 'table'"));
  EXPECT_EQ(adapters.names(), (std::vector<std::string>{"a", "b", "c"}));
}

TEST_F(Combining, ResizingKeepsWhatItCan) {
  auto adapters = inject(lora(4), "a");
  const Tensor before = run("a");
  peft::resize_adapter(*model_, 6, "a");
  EXPECT_TRUE(torch::allclose(run("a"), before, 1e-4, 1e-5));
  EXPECT_EQ(adapters.parameters("a").front().size(0), 6);
  peft::resize_adapter(*model_, 1.0, "a");
  EXPECT_TRUE(torch::allclose(run("a"), before, 1e-4, 1e-5));
  const Tensor weight = model_->up->weight;
  const Tensor whole = delta("a", weight);
  peft::resize_adapter(*model_, 2, "a");
  // The nearest of rank 2: what is missing are the other singular values.
  const auto values = std::get<1>(torch::linalg_svd(whole));
  EXPECT_NEAR(
      (whole - delta("a", weight)).norm().item<double>(),
      values.slice(0, 2).norm().item<double>(),
      1e-4);
  EXPECT_THAT(
      message_of([&] { peft::resize_adapter(*model_, 0, "a"); }),
      HasSubstr("rank = 0"));
  EXPECT_THAT(
      message_of([&] { peft::resize_adapter(*model_, 1.5, "a"); }),
      HasSubstr("(0, 1]"));
}

TEST_F(Combining, AnyMethodBecomesLora) {
  peft::LoraConfig dora = lora(2);
  dora.target_modules = {"table", "up", "head"};
  dora.use_dora = true;
  inject(dora, "dora");
  peft::AdaLoraConfig ada;
  ada.init_r = 3;
  ada.target_r = 2;
  ada.total_step = 10;
  ada.target_modules = {"up", "head"};
  inject(ada, "ada");
  peft::IA3Config ia3;
  ia3.target_modules = {"conv", "up", "head"};
  ia3.feedforward_modules = {"up"};
  auto adapters = inject(ia3, "ia3");
  inject(lora(4), "lora");
  for (const std::string name : {"dora", "ada", "ia3", "lora"}) {
    const Tensor expected = run(name);
    const auto converted = peft::convert_to_lora(*model_, 12, name);
    peft::inject_adapter_in_model(converted.config, *model_, "converted");
    const auto report = peft::set_peft_model_state_dict(
        *model_, converted.weights, "converted");
    EXPECT_TRUE(report.missing_keys.empty()) << name;
    EXPECT_TRUE(report.unexpected_keys.empty()) << name;
    EXPECT_TRUE(torch::allclose(run("converted"), expected, 1e-3, 1e-4))
        << name;
    adapters.delete_adapter("converted");
  }
  const TempFolder folder;
  const Tensor expected = run("ada");
  peft::save_as_lora(*model_, folder.path(), 1.0, "ada");
  peft::load_adapter(*model_, folder.path(), "file");
  EXPECT_TRUE(torch::allclose(run("file"), expected, 1e-3, 1e-4));
}

}  // namespace
}  // namespace peft_test
