// SPDX-License-Identifier: Apache-2.0
// Module::to(floating dtype) turns integer buffers, BatchNorm's count of
// batches, into floats: values come and go all the same, where they are values
// of both.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "peft/peft.h"
#include "support/error_of.h"
#include "support/temp_folder.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using peft::ErrorKind;
using testing::AllOf;
using testing::HasSubstr;
using torch::Tensor;

constexpr const char* key = "norm.num_batches_tracked";

struct NormedImpl : nn::Cloneable<NormedImpl> {
  NormedImpl() { reset(); }
  void reset() override {
    linear = register_module("linear", nn::Linear(4, 3));
    norm = register_module("norm", nn::BatchNorm1d(3));
  }
  Tensor forward(const Tensor& x) { return norm(linear(x)); }
  nn::Linear linear{nullptr};
  nn::BatchNorm1d norm{nullptr};
};
TORCH_MODULE(Normed);

class IntegerValues : public testing::Test {
 protected:
  void SetUp() override {
    inject(*saved_);
    for (int i = 0; i < 3; ++i) {
      saved_->forward(torch::randn({5, 4}));  // counted in the adapter's copy
    }
    peft::save_pretrained(*saved_, folder_ / "adapter");
    ASSERT_EQ(
        peft::get_peft_model_state_dict(*saved_)[key].scalar_type(),
        torch::kLong);
  }

  static peft::Adapters inject(nn::Module& model) {
    peft::LoraConfig config;
    config.r = 2;
    config.lora_alpha = 3;
    config.target_modules = {"linear"};
    config.modules_to_save = {"norm"};
    return peft::inject_adapter_in_model(config, model);
  }

  static void expect_counted(nn::Module& model) {
    const Tensor found = peft::get_peft_model_state_dict(model)[key];
    EXPECT_TRUE(found.is_floating_point());
    EXPECT_EQ(found.item<double>(), 3);
  }

  TempFolder folder_;
  Normed saved_;
};

TEST_F(IntegerValues, GoIntoTheFloatsOfAModelThatWasCast) {
  for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kBFloat16}) {
    Normed set;
    inject(*set);
    set->to(dtype);
    peft::set_peft_model_state_dict(
        *set, peft::get_peft_model_state_dict(*saved_));
    expect_counted(*set);

    Normed loaded;
    loaded->to(dtype);
    peft::load_adapter(*loaded, folder_ / "adapter");
    expect_counted(*loaded);

    Normed swapped;
    inject(*swapped);
    swapped->to(dtype);
    peft::hotswap_adapter(*swapped, folder_ / "adapter");
    expect_counted(*swapped);
    expect_counted(*peft::clone(swapped.ptr()));

    Normed attached;
    attached->to(dtype);
    peft::attach_adapter(*attached, folder_ / "adapter", "default");
    peft::adapters_of(*attached).set_adapter("default");
    expect_counted(*attached);
  }
}

TEST_F(IntegerValues, ComeBackFromFloats) {
  saved_->to(torch::kFloat);
  peft::save_pretrained(*saved_, folder_ / "floats");
  Normed loaded;
  peft::load_adapter(*loaded, folder_ / "floats");
  const Tensor found = peft::get_peft_model_state_dict(*loaded)[key];
  EXPECT_EQ(found.scalar_type(), torch::kLong);
  EXPECT_EQ(found.item<int64_t>(), 3);
}

TEST_F(IntegerValues, AreRefusedWhereTheyWouldBeOthers) {
  Normed model;
  inject(*model);
  model->to(torch::kFloat);
  peft::StateDict given;
  for (const auto& item : peft::get_peft_model_state_dict(*saved_)) {
    given.insert(item.key(), item.value().detach().clone());
  }
  given[key].fill_((1 << 24) + 1);
  EXPECT_THAT(
      error_of(
          ErrorKind::shape,
          [&] { peft::set_peft_model_state_dict(*model, given); }),
      AllOf(
          HasSubstr(key),
          HasSubstr("given long int, whose values float cannot hold")));
  EXPECT_EQ(peft::get_peft_model_state_dict(*model)[key].item<double>(), 0);
}

TEST_F(IntegerValues, GoIntoTheModelsOwnTensors) {
  Normed model;
  inject(*model);
  model->to(torch::kFloat);
  const auto own = peft::get_base_model_state_dict(*saved_);
  peft::StateDict given;
  for (const auto& item : own) {
    given.insert(item.key(), item.value().detach().clone());
  }
  given[key].fill_(7);
  peft::set_base_model_state_dict(*model, given);
  EXPECT_EQ(peft::get_base_model_state_dict(*model)[key].item<double>(), 7);

  given[key].fill_((1 << 24) + 1);
  given["linear.bias"].fill_(5);
  EXPECT_THAT(
      error_of(
          ErrorKind::shape,
          [&] { peft::set_base_model_state_dict(*model, given); }),
      HasSubstr("cannot hold exactly"));
  EXPECT_NE(model->linear->bias[0].item<float>(), 5);  // nothing has changed
}

}  // namespace
}  // namespace peft_test
