// SPDX-License-Identifier: Apache-2.0
// The tensor in a layer's `weight` member: every way to read, view and write.
#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/library.h>
#include <torch/torch.h>

#include <algorithm>
#include <sstream>

#include "peft/peft.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

// An operator of the user's own, with a kernel that reads memory.
torch::Tensor twice(const torch::Tensor& x) {
  torch::Tensor out = torch::empty_like(x);
  const auto* from = x.const_data_ptr<float>();
  std::transform(from, from + x.numel(), out.data_ptr<float>(), [](float v) {
    return 2 * v;
  });
  return out;
}
TORCH_LIBRARY(peft_test, m) {
  m.def("twice(Tensor x) -> Tensor");
  m.impl("twice", torch::kCPU, &twice);
}

namespace F = torch::nn::functional;
using torch::Tensor;

class AdaptedTensor : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(1);
    peft::LoraConfig config;
    config.r = 2;
    config.lora_alpha = 3;
    base_ = torch::randn({5, 4});
    weight_ = peft::adapt(base_, config);
    factors_ = peft::adapter_parameters(weight_);
    randomise(factors_);
    copies_ = {
        factors_[0].detach().clone().requires_grad_(),
        factors_[1].detach().clone().requires_grad_()};
    expected_ = base_ + copies_[1].mm(copies_[0]) * 1.5;
  }

  // Same values, same gradients in both factors.
  void expect_same(const Tensor& found, const Tensor& expected) {
    ASSERT_EQ(found.sizes(), expected.sizes());
    EXPECT_FALSE(peft::is_adapted(found));
    EXPECT_TRUE(torch::allclose(found, expected, 1e-4, 1e-5));
    const Tensor direction = torch::randn(found.sizes());
    (found * direction).sum().backward();
    (expected * direction).sum().backward({}, /*keep_graph=*/true);
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_TRUE(
          torch::allclose(factors_[i].grad(), copies_[i].grad(), 1e-4, 1e-5));
      factors_[i].mutable_grad().reset();
      copies_[i].mutable_grad().reset();
    }
  }

  Tensor base_;
  Tensor weight_;
  Tensor expected_;
  std::vector<Tensor> factors_;
  std::vector<Tensor> copies_;
};

TEST_F(AdaptedTensor, EveryOperatorSeesTheEffectiveWeight) {
  const Tensor x = torch::randn({3, 4});
  expect_same(torch::matmul(x, weight_.t()), torch::matmul(x, expected_.t()));
  expect_same(x.mm(weight_.transpose(0, 1)), x.mm(expected_.t()));
  expect_same(x.mm(weight_.permute({1, 0})), x.mm(expected_.t()));
  expect_same(
      torch::einsum("ni,oi->no", {x, weight_}),
      torch::einsum("ni,oi->no", {x, expected_}));
  expect_same(weight_.mm(x.t()), expected_.mm(x.t()));
  expect_same(
      F::linear(x, weight_.slice(0, 1, 4)),
      F::linear(x, expected_.slice(0, 1, 4)));
  expect_same(
      F::linear(x, weight_.slice(0, 1, 4), torch::ones(3)),
      F::linear(x, expected_.slice(0, 1, 4), torch::ones(3)));
  expect_same(
      F::linear(x, weight_.slice(0, -2)), F::linear(x, expected_.slice(0, -2)));
  expect_same(
      F::linear(x.slice(1, 0, 2), weight_.slice(1, 2, 4)),
      F::linear(x.slice(1, 0, 2), expected_.slice(1, 2, 4)));
  expect_same(
      torch::addmm(torch::ones(5), x, weight_.t(), 0.5, 2.0),
      torch::addmm(torch::ones(5), x, expected_.t(), 0.5, 2.0));
  const Tensor index = torch::tensor({3, 0}, torch::kLong);
  expect_same(weight_.index_select(0, index), expected_.index_select(0, index));
  expect_same(weight_.index({index}), expected_.index({index}));
  expect_same(
      torch::cat({weight_, torch::ones({1, 4})}),
      torch::cat({expected_, torch::ones({1, 4})}));
  expect_same(
      torch::stack({weight_.chunk(5)[1], weight_.select(0, 2).unsqueeze(0)}),
      torch::stack({expected_[1].unsqueeze(0), expected_[2].unsqueeze(0)}));
  expect_same(weight_.clone(), expected_.clone());
  expect_same(weight_.norm(), expected_.norm());
  expect_same(weight_ + weight_, expected_ + expected_);
}

TEST_F(AdaptedTensor, OperatorsOfTheUsersOwnSeeTheEffectiveWeight) {
  const auto op = c10::Dispatcher::singleton()
                      .findSchemaOrThrow("peft_test::twice", "")
                      .typed<Tensor(const Tensor&)>();
  const torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::allclose(op.call(weight_), expected_ * 2));
}

TEST_F(AdaptedTensor, MetadataIsTheBases) {
  EXPECT_EQ(weight_.sizes(), base_.sizes());
  EXPECT_EQ(weight_.strides(), base_.strides());
  EXPECT_EQ(weight_.dtype(), base_.dtype());
  EXPECT_EQ(weight_.device(), base_.device());
  EXPECT_EQ(weight_.t().sizes(), base_.t().sizes());
  EXPECT_FALSE(weight_.is_contiguous());  // contiguous() gives real memory
}

TEST_F(AdaptedTensor, InPlaceWritesGoToTheBase) {
  const torch::NoGradGuard no_grad;
  const auto expect_written = [&](const Tensor& value) {
    EXPECT_TRUE(torch::equal(base_, value));
    EXPECT_TRUE(torch::allclose(
        peft::effective_weight(weight_),
        value + factors_[1].mm(factors_[0]) * 1.5));
  };
  const Tensor ones = torch::ones({5, 4});
  Tensor& returned = weight_.copy_(ones);
  EXPECT_TRUE(peft::is_adapted(returned));
  expect_written(ones);
  weight_.add_(2);
  expect_written(ones * 3);
  peft::base_weight(weight_.t()).mul_(2);
  expect_written(ones * 6);
  weight_.slice(0, 0, 5).fill_(4);
  expect_written(ones * 4);
  weight_.view({-1}).zero_();
  expect_written(ones * 0);
  weight_.data().fill_(5);
  expect_written(ones * 5);
  weight_.detach().fill_(7);
  expect_written(ones * 7);
  weight_.index_put_({1}, 9);
  EXPECT_EQ(base_[1][0].item<float>(), 9);
  torch::nn::init::ones_(weight_);
  expect_written(ones);
  torch::nn::init::orthogonal_(weight_);
  EXPECT_TRUE(torch::allclose(base_.t().mm(base_), torch::eye(4), 1e-4, 1e-5));
  torch::nn::init::eye_(weight_);
  expect_written(torch::eye(5, 4));
  weight_.set_data(ones * 2);
  expect_written(ones * 2);
}

TEST_F(AdaptedTensor, DetachedReadsCarryNoGradient) {
  EXPECT_FALSE((weight_.detach() * 2).requires_grad());
  EXPECT_FALSE((weight_.data() * 2).requires_grad());
  EXPECT_FALSE(weight_.variable_data().mul(2).requires_grad());
  EXPECT_TRUE(torch::allclose(weight_.detach() * 1, expected_.detach()));
  const Tensor x = torch::randn({3, 4});
  EXPECT_FALSE(F::linear(x, weight_.detach()).requires_grad());
}

TEST_F(AdaptedTensor, HasNoMemoryOfItsOwnAndSaysWhatToDo) {
  try {
    weight_.data_ptr<float>();
    FAIL() << "no error";
  } catch (const std::exception& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("peft::effective_weight"));
  }
  EXPECT_TRUE(torch::allclose(weight_.contiguous(), expected_));
  EXPECT_NE(weight_.contiguous().data_ptr<float>(), nullptr);
  EXPECT_EQ(peft::base_weight(weight_).data_ptr(), base_.data_ptr());
  std::ostringstream archive;
  EXPECT_ANY_THROW(torch::save(weight_, archive));
}

TEST_F(AdaptedTensor, PrintsTheEffectiveWeight) {
  std::ostringstream found;
  std::ostringstream expected;
  found << weight_;
  expected << expected_.detach();
  EXPECT_EQ(found.str(), expected.str());
}

TEST_F(AdaptedTensor, WorksInEveryGradMode) {
  const Tensor x = torch::randn({3, 4});
  const Tensor expected = F::linear(x, expected_).detach();
  {
    const torch::NoGradGuard no_grad;
    const Tensor y = F::linear(x, weight_);
    EXPECT_FALSE(y.requires_grad());
    EXPECT_TRUE(torch::allclose(y, expected, 1e-4, 1e-5));
  }
  const c10::InferenceMode inference;
  const Tensor y = F::linear(x, weight_);
  EXPECT_TRUE(y.is_inference());
  EXPECT_TRUE(torch::allclose(y, expected, 1e-4, 1e-5));
  EXPECT_TRUE(torch::allclose(weight_ * 2, expected_ * 2, 1e-4, 1e-5));
}

TEST_F(AdaptedTensor, AutocastRunsInLowPrecisionWithFullGradients) {
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  const Tensor x = torch::randn({3, 4});
  const Tensor y = F::linear(x, weight_);
  const Tensor z = F::linear(x.unsqueeze(0), weight_, torch::ones(5));
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
  EXPECT_EQ(z.scalar_type(), torch::kBFloat16);
  (y.sum() + z.sum()).backward();
  EXPECT_EQ(factors_[0].grad().scalar_type(), torch::kFloat32);
  EXPECT_TRUE(torch::allclose(
      y.to(torch::kFloat32), F::linear(x, expected_), 5e-2, 5e-2));
}

TEST_F(AdaptedTensor, DoubleBackward) {
  const Tensor x = torch::randn({3, 4}).requires_grad_();
  const auto penalty = [&](const Tensor& w) {
    const Tensor y = F::linear(x, w).pow(3).sum();
    return torch::autograd::grad({y}, {x}, {}, true, true)[0].pow(2).sum();
  };
  penalty(weight_).backward();
  penalty(expected_).backward();
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(
        torch::allclose(factors_[i].grad(), copies_[i].grad(), 1e-3, 1e-3));
  }
}

TEST_F(AdaptedTensor, WeightAsInputAndWeightAtOnce) {
  expect_same(F::linear(weight_, weight_), F::linear(expected_, expected_));
}

TEST(Adapt, RefusesWhatItCannotDo) {
  peft::LoraConfig config;
  EXPECT_THROW(peft::adapt(torch::Tensor(), config), peft::Error);
  EXPECT_THROW(
      peft::adapt(torch::ones({2, 3}, torch::kLong), config), peft::Error);
  EXPECT_THROW(peft::adapt(torch::ones({2}), config), peft::Error);
  peft::LoraConfig dropping = config;
  dropping.lora_dropout = 0.1;  // a stack's input is not known
  EXPECT_THROW(
      peft::adapt(torch::ones({2, 3, 4}), dropping, peft::WeightUse::any),
      peft::Error);
  const auto once = peft::adapt(torch::ones({2, 3}), config);
  EXPECT_THROW(peft::adapt(once, config), peft::Error);
  config.r = 0;
  EXPECT_THROW(peft::adapt(torch::ones({2, 3}), config), peft::Error);
}

TEST(Adapt, TransposedAndStackedWeights) {
  torch::manual_seed(2);
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  const Tensor w = torch::randn({4, 5});
  const Tensor adapted =
      peft::adapt(w, config, peft::WeightUse::linear_transposed);
  const auto f = peft::adapter_parameters(adapted);
  EXPECT_EQ(f[0].sizes(), (at::IntArrayRef{2, 4}));
  EXPECT_EQ(f[1].sizes(), (at::IntArrayRef{5, 2}));
  randomise(f);
  const Tensor x = torch::randn({3, 4});
  const Tensor delta = f[1].mm(f[0]).t() * 1.5;
  EXPECT_TRUE(
      torch::allclose(x.matmul(adapted), x.matmul(w + delta), 1e-4, 1e-5));
  EXPECT_TRUE(torch::allclose(adapted * 1, w + delta, 1e-4, 1e-5));

  // PEFT's layout for stacks: A [r E, in] by expert, B [out, r E] rank-major.
  const Tensor stack = torch::randn({3, 5, 4});
  const Tensor experts = peft::adapt(stack, config, peft::WeightUse::any);
  const auto g = peft::adapter_parameters(experts);
  EXPECT_EQ(g[0].sizes(), (at::IntArrayRef{6, 4}));
  EXPECT_EQ(g[1].sizes(), (at::IntArrayRef{5, 6}));
  randomise(g);
  for (int64_t e = 0; e < 3; ++e) {
    const Tensor A = g[0].slice(0, 2 * e, 2 * e + 2);
    const Tensor B = g[1].slice(1, e, 6, 3);
    EXPECT_TRUE(torch::allclose(
        experts.select(0, e) * 1, stack[e] + B.mm(A) * 1.5, 1e-4, 1e-5));
  }
}

}  // namespace
}  // namespace peft_test
