// SPDX-License-Identifier: Apache-2.0
// What is written in place to a weight with adapters: masks hold for what
// operators see, initialisers mean the base, and what is neither is refused.
// The oracle is the plain operator on (W + s B A) * mask.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <atomic>
#include <functional>
#include <thread>

#include "peft/peft.h"
#include "support/error_of.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
namespace F = torch::nn::functional;
using testing::AllOf;
using testing::HasSubstr;
using torch::Tensor;
using torch::indexing::Slice;

peft::LoraConfig lora(int rank = 2) {
  peft::LoraConfig config;
  config.r = rank;
  config.lora_alpha = 3;
  config.target_modules = {"conv"};
  return config;
}

// Positions after the middle one see nothing.
Tensor keep_past() {
  Tensor keep = torch::ones({5, 4, 3});
  keep.index_put_({Slice(), Slice(), Slice(2)}, 0);
  return keep;
}

using Write = std::function<void(Tensor weight, const Tensor& keep)>;
struct NamedWrite {
  const char* name;
  Write write;
  bool reads = false;  // the whole weight, which has no one value in a batch
};

std::vector<NamedWrite> ways_to_mask() {
  return {
      {"index_put_",
       [](Tensor w, const Tensor& keep) { w.index_put_({keep == 0}, 0); }},
      {"index_put_ of a slice",
       [](Tensor w, const Tensor&) {
         w.index_put_({Slice(), Slice(), Slice(2)}, 0);
       }},
      {"masked_fill_",
       [](Tensor w, const Tensor& keep) { w.masked_fill_(keep == 0, 0); }},
      {"mul_", [](Tensor w, const Tensor& keep) { w.mul_(keep); }},
      {"data", [](Tensor w, const Tensor& keep) { w.data().mul_(keep); }},
      {"detach", [](Tensor w, const Tensor& keep) { w.detach().mul_(keep); }},
      {"a transpose",
       [](Tensor w, const Tensor& keep) {
         w.transpose(0, 2).mul_(keep.transpose(0, 2));
       }},
      {"a slice, zero_",
       [](Tensor w, const Tensor&) { w.slice(2, 2, 3).zero_(); }},
      {"copy_", [](Tensor w, const Tensor& keep) { w.copy_(w * keep); }, true},
      {"set_data",
       [](Tensor w, const Tensor& keep) { w.set_data((w * keep).detach()); },
       true},
      {"out",
       [](Tensor w, const Tensor& keep) {
         const Tensor zeros = torch::zeros({1});
         torch::where_out(w, keep == 0, zeros, w * 1);
       },
       true}};
}

struct MaskedConvImpl : nn::Module {
  explicit MaskedConvImpl(Write write) : write_(std::move(write)) {
    register_module("conv", conv);
  }
  Tensor forward(const Tensor& x) {
    if (write_) {
      const torch::NoGradGuard no_grad;
      write_(conv->weight, keep_past());
    }
    return conv(x);
  }
  nn::Conv1d conv{nn::Conv1dOptions(4, 5, 3)};

 private:
  Write write_;
};
TORCH_MODULE(MaskedConv);

// W + s B A of a convolution with these factors.
Tensor effective(const Tensor& base, const Tensor& A, const Tensor& B) {
  return base + 1.5 * torch::einsum("or,rik->oik", {B.squeeze(-1), A});
}

class Masked : public testing::TestWithParam<std::size_t> {
 protected:
  void SetUp() override {
    torch::manual_seed(4);
    model_ = MaskedConv(ways_to_mask()[GetParam()].write);
    base_ = model_->conv->weight.detach().clone();
    SCOPED_TRACE(ways_to_mask()[GetParam()].name);
  }

  Tensor expected(const std::vector<Tensor>& f) const {
    return F::conv1d(
        x_,
        effective(base_, f[0], f[1]) * keep_past(),
        F::Conv1dFuncOptions().bias(model_->conv->bias.detach()));
  }

  MaskedConv model_{nullptr};
  Tensor base_;
  Tensor x_ = torch::randn({2, 4, 7});
};

TEST_P(Masked, IsTheWeightThatOperatorsSee) {
  auto adapters = peft::inject_adapter_in_model(lora(), *model_);
  const auto factors = adapters.parameters("default");
  model_->forward(x_);  // adapters that do nothing yet
  for (int step = 0; step < 2; ++step) {
    randomise(factors);
    std::vector<Tensor> copies;
    for (const Tensor& factor : factors) {
      copies.push_back(factor.detach().clone().requires_grad_());
    }
    const Tensor y = model_->forward(x_);
    const Tensor wanted = expected(copies);
    EXPECT_TRUE(torch::allclose(y, wanted, 1e-4, 1e-5));
    y.square().sum().backward();
    wanted.square().sum().backward();
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_TRUE(
          torch::allclose(factors[i].grad(), copies[i].grad(), 1e-3, 1e-4));
      factors[i].mutable_grad().reset();
    }
  }
  EXPECT_TRUE(torch::equal(
      peft::base_weight(model_->conv->weight), base_ * keep_past()));
}

TEST_P(Masked, WhateverRuns) {
  auto adapters = peft::inject_adapter_in_model(lora(), *model_, "a");
  peft::inject_adapter_in_model(lora(3), *model_, "b");
  const auto a = adapters.parameters("a");
  const auto b = adapters.parameters("b");
  randomise(a);
  randomise(b);
  const torch::NoGradGuard no_grad;
  const auto expect_close = [](const Tensor& found, const Tensor& wanted) {
    EXPECT_TRUE(torch::allclose(found, wanted, 1e-4, 1e-5));
  };
  adapters.set_adapter("b");
  adapters.merge_adapter();
  const double of_b = 1.0;  // alpha 3 over r 3
  const auto with = [&](const std::vector<Tensor>& f, double scale) {
    const Tensor delta =
        scale * torch::einsum("or,rik->oik", {f[1].squeeze(-1), f[0]});
    return F::conv1d(
        x_,
        (base_ + delta) * keep_past(),
        F::Conv1dFuncOptions().bias(model_->conv->bias));
  };
  expect_close(model_->forward(x_), with(b, of_b));
  adapters.unmerge_adapter();
  adapters.set_adapter("a");
  expect_close(model_->forward(x_), with(a, 1.5));
  {
    const peft::DisableAdapters scope(adapters);
    expect_close(model_->forward(x_), with(a, 0));
  }
  if (!ways_to_mask()[GetParam()].reads) {
    const peft::BatchAdapters scope(adapters, {"b", "a"});
    expect_close(
        model_->forward(x_), torch::stack({with(b, of_b)[0], with(a, 1.5)[1]}));
  }
  adapters.merge_and_unload();
  expect_close(model_->forward(x_), with(a, 1.5));
}

INSTANTIATE_TEST_SUITE_P(
    EveryWay,
    Masked,
    testing::Range(std::size_t{0}, ways_to_mask().size()));

// A MADE-like layer, every product that a Linear may be read with.
TEST(MaskedLinear, IsTheWeightThatProductsSee) {
  torch::manual_seed(9);
  const Tensor base = torch::randn({5, 4});
  peft::LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3;
  Tensor weight = peft::adapt(base.clone(), config);
  const auto f = peft::adapter_parameters(weight);
  randomise(f);
  const torch::NoGradGuard no_grad;
  const Tensor keep = torch::ones({5, 4}).tril();
  weight.mul_(keep);
  const Tensor expected = (base + 1.5 * f[1].mm(f[0])) * keep;
  const Tensor x = torch::randn({3, 4});
  const auto expect_close = [](const Tensor& found, const Tensor& wanted) {
    EXPECT_TRUE(torch::allclose(found, wanted, 1e-4, 1e-5));
  };
  expect_close(F::linear(x, weight), x.mm(expected.t()));
  expect_close(F::linear(x, weight, x.new_ones(5)), x.mm(expected.t()) + 1);
  expect_close(x.mm(weight.t()), x.mm(expected.t()));
  expect_close(
      F::linear(x, weight.slice(0, 1, 4)), x.mm(expected.slice(0, 1, 4).t()));
  expect_close(weight.mm(x.t()), expected.mm(x.t()));
}

TEST(MaskedThreads, SeeTheSame) {
  torch::manual_seed(9);
  MaskedConv model([](const Tensor& weight, const Tensor& keep) {
    Tensor w = weight;
    w.mul_(keep);
  });
  auto adapters = peft::inject_adapter_in_model(lora(), *model);
  randomise(adapters.parameters("default"));
  const Tensor x = torch::randn({2, 4, 7});
  const Tensor expected = model->forward(x).detach();
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int step = 0; step < 20; ++step) {
        wrong += torch::equal(model->forward(x), expected) ? 0 : 1;
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(wrong.load(), 0);
}

class WrittenWeight : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(5);
    config_.r = 2;
    config_.lora_alpha = 3;
    base_ = torch::randn({5, 4});
    weight_ = peft::adapt(base_, config_);
    factors_ = peft::adapter_parameters(weight_);
    randomise(factors_);
  }

  Tensor delta() const { return 1.5 * factors_[1].mm(factors_[0]).detach(); }
  Tensor now() const { return peft::effective_weight(weight_).detach(); }

  // Adapters act everywhere on what was written.
  void expect_adapted(const Tensor& value) const {
    EXPECT_TRUE(torch::equal(base_, value));
    EXPECT_TRUE(torch::allclose(now(), value + delta(), 1e-4, 1e-5));
  }

  peft::LoraConfig config_;
  Tensor base_;
  Tensor weight_;
  std::vector<Tensor> factors_;
};

TEST_F(WrittenWeight, InitialisersMeanTheBase) {
  const torch::NoGradGuard no_grad;
  const std::vector<std::function<void()>> all = {
      [&] { nn::init::sparse_(weight_, 0.5); },
      [&] { nn::init::orthogonal_(weight_, 3); },
      [&] { nn::init::xavier_uniform_(weight_); },
      [&] { nn::init::kaiming_normal_(weight_); },
      [&] { nn::init::eye_(weight_); },
      [&] { nn::init::constant_(weight_, 2); },
      [&] { weight_.normal_().clamp_(-1, 1); },
      [&] {
        weight_.normal_();
        weight_[2].fill_(0);  // an embedding's padding
      },
      [&] {
        for (const Tensor& part : weight_.split({2, 3})) {
          part.copy_(torch::randn(part.sizes()));
        }
      },
      [&] { weight_.copy_(torch::randn({5, 4})); }};
  for (std::size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE(i);
    weight_.slice(1, 0, 2).zero_();  // a mask, gone with what follows
    all[i]();
    expect_adapted(base_.clone());
  }
}

TEST_F(WrittenWeight, AMaskHoldsUntilItsPlaceIsWrittenAgain) {
  const torch::NoGradGuard no_grad;
  weight_[1].zero_();
  weight_[3].zero_();
  EXPECT_EQ(now()[1].abs().max().item<float>(), 0);
  weight_[1].fill_(2);
  EXPECT_TRUE(torch::allclose(now()[1], delta()[1] + 2));
  EXPECT_EQ(now()[3].abs().max().item<float>(), 0);
  weight_[3].normal_();
  expect_adapted(base_.clone());
}

TEST_F(WrittenWeight, ACopyOfItselfIsNoChange) {
  const torch::NoGradGuard no_grad;
  const Tensor before = base_.clone();
  weight_.copy_(weight_);
  expect_adapted(before);
}

TEST_F(WrittenWeight, WhatWouldReachTheBaseAloneIsRefused) {
  const torch::NoGradGuard no_grad;
  const Tensor before = base_.clone();
  const std::vector<std::function<void()>> all = {
      [&] { weight_.mul_(2); },
      [&] { weight_.t().mul_(2); },
      [&] { weight_.data().div_(weight_.norm()); },
      [&] { weight_.clamp_(-0.1, 0.1); },
      [&] { weight_.mul_(torch::rand({5, 4})); },
      [&] { weight_.renorm_(2, 0, 0.5); },
      [&] { weight_.t_(); },
      [&] { at::_foreach_mul_(std::vector<Tensor>{weight_}, 2); }};
  for (std::size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_THAT(
        error_of(peft::ErrorKind::unsupported, all[i]),
        AllOf(HasSubstr("in place"), HasSubstr("peft::base_weight(weight)")));
    expect_adapted(before);
  }
  peft::base_weight(weight_).mul_(2);
  expect_adapted(before * 2);
  weight_.add_(1);
  expect_adapted(before * 2 + 1);
}

TEST_F(WrittenWeight, GainsTakeMasksAndRefuseSums) {
  const torch::NoGradGuard no_grad;
  nn::Sequential model;
  nn::Linear linear(4, 5);
  model->push_back("linear", linear);
  peft::IA3Config config;
  config.target_modules = {"linear"};
  config.feedforward_modules = std::vector<std::string>{};
  auto adapters = peft::inject_adapter_in_model(config, *model);
  randomise(adapters.parameters("default"));
  EXPECT_THAT(
      error_of(peft::ErrorKind::unsupported, [&] { linear->weight.add_(1); }),
      HasSubstr("'linear'"));
  linear->weight[1].zero_();
  const Tensor x = torch::randn({3, 4});
  EXPECT_TRUE(torch::allclose(
      model->forward(x),
      F::linear(x, peft::effective_weight(linear->weight)) +
          model->forward(torch::zeros({3, 4})),
      1e-4,
      1e-5));
  EXPECT_EQ(
      peft::effective_weight(linear->weight)[1].abs().max().item<float>(), 0);
  const peft::DisableAdapters scope(adapters);
  linear->weight.add_(1);  // no adapter runs that it could miss
}

TEST_F(WrittenWeight, HalfPrecisionMasks) {
  const torch::NoGradGuard no_grad;
  for (const auto dtype : {torch::kHalf, torch::kBFloat16}) {
    const Tensor base = torch::randn({5, 4}).to(dtype);
    const Tensor weight = peft::adapt(base, config_);
    randomise(peft::adapter_parameters(weight));
    Tensor keep = torch::ones({5, 4}, dtype).tril();
    const Tensor before = peft::effective_weight(weight);
    Tensor written = weight;
    written.mul_(keep);
    EXPECT_TRUE(torch::equal(peft::effective_weight(weight), before * keep));
    EXPECT_ANY_THROW(written.mul_(1.5));
  }
}

TEST_F(WrittenWeight, GoesWithAClone) {
  const torch::NoGradGuard no_grad;
  TextModel model;
  peft::LoraConfig config = lora();
  config.target_modules = {"up"};
  auto adapters = peft::inject_adapter_in_model(config, *model);
  randomise(adapters.parameters("default"));
  auto up = std::dynamic_pointer_cast<nn::LinearImpl>(
      model->named_modules()["blocks.0.up"]);
  up->weight[2].zero_();
  const auto copy = peft::clone_module(*model);
  EXPECT_TRUE(torch::equal(
      std::dynamic_pointer_cast<TextModelImpl>(copy)->forward(text_ids()),
      model->forward(text_ids())));
}

}  // namespace
}  // namespace peft_test
