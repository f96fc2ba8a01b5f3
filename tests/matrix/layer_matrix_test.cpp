// SPDX-License-Identifier: Apache-2.0
// The property matrix: what must hold for every method on every layer kind and
// dtype, in torch::nn modules and in exported programs.
#include "matrix/layer_matrix.h"

namespace peft_test {
namespace {

TEST_P(LayerMatrix, IsTheIdentityAtBirth) {
  const Tensor before = forward();
  auto adapters = peft::inject_adapter_in_model(
      *method().config(),
      model(),
      "default",
      {.autocast_adapter_dtype = precision().autocast_adapter_dtype});
  for (const Tensor& tensor : adapters.parameters("default")) {
    EXPECT_EQ(tensor.scalar_type(), adapter_dtype());
  }
  EXPECT_EQ(forward().scalar_type(), before.scalar_type());
  EXPECT_TRUE(torch::equal(forward(), before));
  for (std::size_t i = 0; i < bases_.size() && !mixes_groups(); ++i) {
    EXPECT_TRUE(torch::equal(peft::effective_weight(weight(i)), bases_[i]));
  }
}

TEST_P(LayerMatrix, ForwardAndGradientsAreThoseOfTheEffectiveWeight) {
  auto adapters = inject();
  const auto factors = adapters.parameters("default");
  const auto formed = peft::detail::effective_weights_formed();
  const Tensor y = forward();
  EXPECT_EQ(
      peft::detail::effective_weights_formed() - formed,
      layer_case().runs_on_factors ? 0 : std::ssize(bases_));
  EXPECT_EQ(y.scalar_type(), dtype());

  const auto copies = leaves(factors);
  const Tensor x = input_as_leaf();
  const auto weights = effective({copies});
  const Tensor expected = run_plain(weights, x);
  expect_close(y, expected);
  for (std::size_t i = 0; i < bases_.size() && !mixes_groups(); ++i) {
    expect_close(peft::effective_weight(weight(i)), as_held(weights[i], i));
  }

  const Tensor direction = torch::randn(y.sizes(), torch::kFloat64);
  (y.to(torch::kFloat64) * direction).sum().backward();
  (expected * direction).sum().backward();
  expect_gradients(factors, copies);
  if (x.requires_grad()) {
    expect_close(input_.grad(), x.grad());
  }
  for (const Tensor& base : bases_) {
    EXPECT_FALSE(base.requires_grad());
  }
}

TEST_P(LayerMatrix, AnEmptyBatchTeachesNothingAndLeavesNoTrace) {
  const auto batch = layer_case().batch;
  if (!batch || host_kind() == HostKind::program ||
      dtype() != torch::kFloat32) {
    GTEST_SKIP() << "the batch is fixed, or another dtype has told";
  }
  auto adapters = inject();
  const Tensor whole = forward();
  const auto run_empty = [&](const auto& run, const Tensor& input) {
    return run(input.detach().slice(*batch, 0, 0));
  };
  Tensor expected;
  try {
    expected = run_empty(
        [&](const Tensor& x) { return run_plain(base_weights(), x); },
        input_as_leaf());
  } catch (const c10::Error&) {
    GTEST_SKIP() << "libtorch's layer takes no empty batch";
  }
  const Tensor y =
      run_empty([&](const Tensor& x) { return host_->forward(x); }, input_);
  EXPECT_EQ(y.sizes(), expected.sizes());
  y.sum().backward();
  for (const Tensor& tensor : adapters.trainable_parameters()) {
    ASSERT_TRUE(tensor.grad().defined());
    EXPECT_EQ(tensor.grad().abs().max().item<double>(), 0);
  }
  EXPECT_TRUE(torch::equal(forward(), whole));
}

TEST_P(LayerMatrix, AnyOtherUseSeesTheEffectiveWeight) {
  auto adapters = inject();
  if (mixes_groups()) {
    EXPECT_THAT(
        error_of(peft::ErrorKind::unsupported, [&] { weight(0) * 2; }),
        testing::HasSubstr("reads all input channels"));
    return;
  }
  const auto factors = adapters.parameters("default");
  const auto copies = leaves(factors);
  const auto all = effective({copies});
  const Tensor index = torch::tensor({1, 0}, torch::kLong);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Tensor expected = as_held(all[i], i);
    expect_close(weight(i) * 2, expected * 2);
    expect_close(
        weight(i).flatten(1).slice(1, 0, 2),
        expected.flatten(1).slice(1, 0, 2));
    const Tensor picked = weight(i).index_select(0, index);
    expect_close(picked, expected.index_select(0, index));
    picked.to(torch::kFloat64).sum().backward();
    expected.index_select(0, index).sum().backward();
  }
  expect_gradients(factors, copies);
}

TEST_P(LayerMatrix, TwoAdaptersActInOrderAndSwitch) {
  const Tensor base = forward();
  auto adapters = inject("a");
  inject_second("b");
  const auto a = leaves(adapters.parameters("a"));
  const auto b = leaves(adapters.parameters("b"));
  const Tensor x = input_as_leaf();
  EXPECT_EQ(adapters.active_adapters(), std::vector<std::string>{"b"});
  expect_close(forward(), run_plain(effective({b}), x));
  adapters.set_adapter("a");
  expect_close(forward(), run_plain(effective({a}), x));
  adapters.set_adapter(std::vector<std::string>{"a", "b"});
  expect_close(forward(), run_plain(effective({a, b}), x));
  adapters.enable_adapters(false);
  EXPECT_TRUE(torch::equal(forward(), base));
  adapters.enable_adapters(true);
  adapters.delete_adapter("b");
  expect_close(forward(), run_plain(effective({a}), x));
  adapters.set_scale("a", 2.0);
  expect_close(forward(), run_plain(effective({a}, 2.0), x));
}

TEST_P(LayerMatrix, StateDictCarriesTheAdapterToAnotherModel) {
  inject();
  const Tensor y = forward();
  const auto state = peft::get_peft_model_state_dict(model());
  const auto other = make_host();
  inject_into(other->model(), *method().config());
  const auto report = peft::set_peft_model_state_dict(other->model(), state);
  EXPECT_TRUE(report.missing_keys.empty());
  EXPECT_TRUE(report.unexpected_keys.empty());
  EXPECT_TRUE(torch::equal(other->forward(input_), y));
}

TEST_P(LayerMatrix, UnloadRestoresTheVeryTensors) {
  const Parameters copies = leaves(bases_);
  const Tensor before = forward();
  auto adapters = inject("a");
  inject_second("b");
  forward();
  adapters.unload();
  for (std::size_t i = 0; i < bases_.size(); ++i) {
    EXPECT_TRUE(weight(i).is_same(bases_[i]));
    EXPECT_TRUE(torch::equal(bases_[i].to(torch::kFloat64), copies[i]));
    EXPECT_TRUE(bases_[i].requires_grad());
  }
  expect_no_adapters_in_the_tree();
  EXPECT_TRUE(torch::equal(forward(), before));
  EXPECT_TRUE(adapters.names().empty());
}

TEST_P(LayerMatrix, FollowsTheModelToAnotherDtype) {
  auto adapters = inject();
  if (layer_case().moves_with_adapters) {
    host_->to(torch::kFloat64);
  } else {
    error_of(peft::ErrorKind::state, [&] { host_->to(torch::kFloat64); });
    peft::to(model(), torch::kFloat64);
  }
  EXPECT_EQ(weight(0).scalar_type(), torch::kFloat64);
  const Tensor x = input_as_leaf();
  const auto copies = leaves(adapters.parameters("default"));
  const Tensor y = host_->forward(x);
  EXPECT_EQ(y.scalar_type(), torch::kFloat64);
  const Tensor expected = run_plain(effective({copies}), x);
  if (method().rounds_the_weight) {
    expect_close(y, expected);
  } else {
    EXPECT_TRUE(torch::allclose(y, expected, 1e-10, 1e-10));
  }
}

INSTANTIATE_TEST_SUITE_P(All, LayerMatrix, all_cases(), case_name);

}  // namespace
}  // namespace peft_test
