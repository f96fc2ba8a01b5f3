// SPDX-License-Identifier: Apache-2.0
// AdaLoRA between its steps: which ranks go, what is saved of them, and going
// on with training. That the ranks are PEFT's own is tested beside Python PEFT.
#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/error_of.h"
#include "support/temp_folder.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using peft::ErrorKind;
using testing::HasSubstr;
using torch::Tensor;

class RankAllocation : public testing::Test {
 protected:
  static peft::AdaLoraConfig config() {
    peft::AdaLoraConfig config;
    config.init_r = 4;
    config.target_r = 1;
    config.tinit = 1;
    config.tfinal = 2;
    config.total_step = 10;
    config.target_modules = {"up", "down"};
    return config;
  }

  peft::Adapters inject(const peft::AdaLoraConfig& config) {
    auto adapters = peft::inject_adapter_in_model(config, *model_);
    randomise(adapters.parameters("default"));
    return adapters;
  }

  void train(peft::Adapters& adapters, int from, int to) {
    torch::optim::SGD optimizer(adapters.trainable_parameters(), 0.1);
    for (int step = from; step < to; ++step) {
      auto loss = model_->forward(text_ids()).square().mean() +
          adapters.orthogonal_regularization();
      loss.backward();
      optimizer.step();
      adapters.update_and_allocate(step);
      optimizer.zero_grad();
    }
  }

  static int64_t ranks_in_config(const peft::Adapters& adapters) {
    int64_t left = 0;
    for (const auto& [key, kept] :
         dynamic_cast<const peft::AdaLoraConfig&>(adapters.config())
             .rank_pattern) {
      left += std::count(kept.begin(), kept.end(), true);
    }
    return left;
  }

  static TextModel copy_of_base(TextModelImpl& from) {
    TextModel to;
    const torch::NoGradGuard no_grad;
    const auto source = from.named_parameters();
    for (auto& item : to->named_parameters()) {
      item.value().copy_(source[item.key()]);
    }
    return to;
  }

  static void expect_equal(
      const peft::StateDict& found,
      const peft::StateDict& expected) {
    ASSERT_EQ(found.keys(), expected.keys());
    for (const auto& item : expected) {
      EXPECT_TRUE(torch::equal(found[item.key()], item.value())) << item.key();
    }
  }

  TextModel model_;
};

TEST_F(RankAllocation, LeavesTheTargetOnAverage) {
  auto adapters = inject(config());
  train(adapters, 0, 10);
  EXPECT_EQ(ranks_in_config(adapters), 4);  // target_r = 1, four weights
}

TEST_F(RankAllocation, IsSavedAsWhatIsLeftAndLoadsAgain) {
  auto adapters = inject(config());
  train(adapters, 0, 10);
  const TempFolder folder;
  peft::save_pretrained(*model_, folder / "adapter");
  const Tensor y = model_->forward(text_ids());
  auto other = copy_of_base(*model_);
  peft::load_adapter(*other, folder / "adapter");
  EXPECT_TRUE(torch::allclose(other->forward(text_ids()), y, 1e-5, 1e-6));
  // And once more: what was loaded is saved as it was.
  peft::save_pretrained(*other, folder / "again");
  expect_equal(
      peft::load_peft_weights(folder / "again"),
      peft::load_peft_weights(folder / "adapter"));
}

TEST_F(RankAllocation, GoesOnWhereItStopped) {
  auto adapters = inject(config());
  train(adapters, 0, 5);
  const auto state = adapters.training_state();
  auto other = copy_of_base(*model_);
  train(adapters, 5, 10);
  const auto expected = peft::get_peft_model_state_dict(*model_);

  std::swap(model_, other);
  auto resumed = peft::inject_adapter_in_model(config(), *model_);
  resumed.load_training_state(state);
  train(resumed, 5, 10);
  expect_equal(peft::get_peft_model_state_dict(*model_), expected);
}

TEST_F(RankAllocation, GoesOnFromAFile) {
  auto adapters = inject(config());
  train(adapters, 0, 4);
  const int64_t first = ranks_in_config(adapters);
  const TempFolder folder;
  peft::save_pretrained(*model_, folder / "adapter");
  auto other = copy_of_base(*model_);
  std::swap(model_, other);
  auto loaded = peft::load_adapter(
      *model_, folder / "adapter", "default", {.is_trainable = true});
  train(loaded, 2, 10);
  EXPECT_LT(ranks_in_config(loaded), first);
  peft::save_pretrained(*model_, folder / "again");
  auto third = copy_of_base(*model_);
  peft::load_adapter(*third, folder / "again");
  EXPECT_TRUE(torch::allclose(
      third->forward(text_ids()), model_->forward(text_ids()), 1e-5, 1e-6));
}

TEST_F(RankAllocation, NothingGoesWhenTheTargetIsTheStart) {
  auto same = config();
  same.target_r = same.init_r;
  auto adapters = inject(same);
  train(adapters, 0, 10);
  EXPECT_EQ(ranks_in_config(adapters), 16);
}

TEST_F(RankAllocation, AWeightMayLoseAllItsRanks) {
  auto none = config();
  none.rank_pattern = {{"blocks.0.up.lora_E", {false, false, false, false}}};
  inject(none);
  const auto state = peft::get_peft_model_state_dict(*model_);
  EXPECT_EQ(state["blocks.0.up.lora_A"].size(0), 0);
  EXPECT_EQ(state["blocks.1.up.lora_A"].size(0), 4);
  model_->forward(text_ids()).sum().backward();
}

TEST_F(RankAllocation, NeedsGradientsAndAnAdapterThatHasRanks) {
  auto adapters = inject(config());
  EXPECT_THAT(
      error_of(ErrorKind::state, [&] { adapters.update_and_allocate(2); }),
      HasSubstr("after loss.backward()"));
  EXPECT_THAT(
      error_of(
          ErrorKind::shape,
          [&] { adapters.load_training_state(peft::StateDict()); }),
      HasSubstr("is missing"));
  peft::LoraConfig lora;
  lora.target_modules = {"head"};
  peft::inject_adapter_in_model(lora, *model_, "plain");
  EXPECT_THAT(
      error_of(
          ErrorKind::state, [&] { adapters.update_and_allocate(0, "plain"); }),
      HasSubstr("LORA"));
}

// Has a layer that no forward calls.
struct WithSpareImpl : torch::nn::Module {
  WithSpareImpl() {
    register_module("used", used);
    register_module("other", other);
    register_module("spare", spare);
  }
  Tensor forward(const Tensor& x) { return other(used(x)); }
  torch::nn::Linear used{4, 5}, other{5, 3}, spare{4, 5};
};
TORCH_MODULE(WithSpare);

TEST_F(RankAllocation, SaysOfALayerThatNeverRunsWhatToDo) {
  WithSpare model;
  auto all = config();
  all.target_modules = "all-linear";
  auto adapters = peft::inject_adapter_in_model(all, *model);
  const Tensor x = torch::randn({3, 4});
  EXPECT_THAT(
      error_of(ErrorKind::state, [&] { adapters.update_and_allocate(2); }),
      testing::AllOf(
          HasSubstr("'used', 'other', 'spare' never ran"),
          testing::Not(HasSubstr("exclude_modules"))));
  model->forward(x).sum().backward();
  EXPECT_THAT(
      error_of(ErrorKind::state, [&] { adapters.update_and_allocate(2); }),
      testing::AllOf(
          HasSubstr("'spare' never ran"),
          HasSubstr("exclude_modules"),
          testing::Not(HasSubstr("used"))));
  adapters.set_scale("default", 2);  // what has run has run
  model->zero_grad();
  EXPECT_THAT(
      error_of(ErrorKind::state, [&] { adapters.update_and_allocate(2); }),
      testing::AllOf(
          HasSubstr("'spare' never ran"),
          HasSubstr("'used', 'other' ran and have no gradient")));
  adapters.unload();
  all.exclude_modules = {"spare"};
  adapters = peft::inject_adapter_in_model(all, *model);
  model->forward(x).sum().backward();
  adapters.update_and_allocate(2);
}

TEST_F(RankAllocation, AModelHasOneTrainableAdaLora) {
  peft::LoraConfig lora;
  lora.target_modules = {"head"};
  peft::inject_adapter_in_model(lora, *model_, "plain");
  peft::inject_adapter_in_model(config(), *model_, "first");
  EXPECT_THAT(
      error_of(
          ErrorKind::config,
          [&] { peft::inject_adapter_in_model(config(), *model_, "second"); }),
      HasSubstr("'first' is a trainable ADALORA"));
  auto frozen = config();
  frozen.inference_mode = true;
  peft::inject_adapter_in_model(frozen, *model_, "second");
}

}  // namespace
}  // namespace peft_test
