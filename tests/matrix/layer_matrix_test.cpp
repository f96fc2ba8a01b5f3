// SPDX-License-Identifier: Apache-2.0
// The property matrix: what must hold for every method on every layer kind and
// dtype, in torch::nn modules and in exported programs.
//
// The oracle is plain autograd: a second layer whose weight and bias are those
// that the method's formula gives (method_cases.cpp), in float64.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "hosting/adapted_weight.h"
#include "matrix/layer_cases.h"
#include "matrix/method_cases.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

// Of the largest element: sums over many positions cancel, and their rounding
// errors stay.
double tolerance(torch::Dtype dtype) {
  switch (dtype) {
    case torch::kFloat64:
      return 1e-10;
    case torch::kFloat32:
      return 1e-5;
    case torch::kFloat16:
      return 4e-3;
    default:
      return 3e-2;  // bfloat16 keeps 8 bits
  }
}

enum class HostKind { module, program };

using Parameters = std::vector<Tensor>;

class LayerMatrix
    : public testing::TestWithParam<
          std::tuple<MethodCase, LayerCase, torch::Dtype, HostKind>> {
 protected:
  void SetUp() override {
    if (host_kind() == HostKind::program && !layer_case().add_node) {
      GTEST_SKIP() << "several nodes in a program";
    }
    if (!method().fits(layer_case())) {
      GTEST_SKIP() << "the method has no form for this layer";
    }
    torch::manual_seed(3);
    layer_ = layer_case().make();
    layer_->to(dtype());
    input_ = layer_case().input();
    if (input_.is_floating_point()) {
      input_ = input_.to(dtype()).requires_grad_();
    }
    host_ = make_host();
    base_ = weight();
  }

  // The layer, with the same values each time, in a model of its own.
  std::unique_ptr<LayerHost> make_host() const {
    if (host_kind() == HostKind::program) {
      return std::make_unique<ProgramLayerHost>(
          *layer_, input_, layer_case().add_node);
    }
    auto layer = layer_case().make();
    layer->to(dtype());
    for (const auto& p : layer_->named_parameters(false)) {
      layer->named_parameters(false)[p.key()].set_data(
          p.value().detach().clone());
    }
    return std::make_unique<ModuleLayerHost>(
        layer, layer_case().forward, layer_case().weight);
  }

  const MethodCase& method() const { return std::get<0>(GetParam()); }
  const LayerCase& layer_case() const { return std::get<1>(GetParam()); }
  torch::Dtype dtype() const { return std::get<2>(GetParam()); }
  HostKind host_kind() const { return std::get<3>(GetParam()); }
  nn::Module& model() { return host_->model(); }
  Tensor& weight() { return host_->weight(); }
  Tensor forward() { return host_->forward(input_); }

  peft::Adapters inject(const std::string& name = "default") {
    auto adapters =
        peft::inject_adapter_in_model(*method().config(), model(), name);
    randomise(adapters.parameters(name));
    return adapters;
  }

  // A second adapter of a method that has one trainable adapter at most.
  peft::Adapters inject_second(const std::string& name) {
    const auto config = method().config();
    config->inference_mode = true;
    auto adapters = peft::inject_adapter_in_model(*config, model(), name);
    randomise(adapters.parameters(name));
    return adapters;
  }

  Weights base_weights() const {
    Weights base{base_.detach().to(torch::kFloat64), Tensor()};
    if (const Tensor bias = layer_case().bias(*layer_); bias.defined()) {
      base.bias = bias.detach().to(torch::kFloat64);
    }
    return base;
  }

  // The layer's weights with these adapters, one after the other.
  Weights effective(const std::vector<Parameters>& adapters, double scale = 1)
      const {
    const Weights base = base_weights();
    Weights now = base;
    for (const Parameters& parameters : adapters) {
      now = method().apply(layer_case(), now, base, parameters, scale);
    }
    return now;
  }

  // The layer run on given weights in double precision, by plain libtorch.
  Tensor run_plain(const Weights& weights, const Tensor& input) {
    auto layer = layer_case().make();
    layer->to(torch::kFloat64);
    Tensor own_bias = layer_case().bias(*layer);
    if (own_bias.defined()) {
      own_bias.set_data(torch::zeros_like(own_bias));
      own_bias.requires_grad_(false);
    }
    layer_case().weight(*layer) = weights.weight;
    const Tensor y = layer_case().forward(*layer, input);
    if (!weights.bias.defined()) {
      return y;
    }
    std::vector<int64_t> shape = {-1};
    if (layer_case().form == Form::kernel) {
      shape.insert(
          shape.end(), static_cast<std::size_t>(weights.weight.dim() - 2), 1);
    }
    return y + weights.bias.view(shape);
  }

  void expect_close(const Tensor& found, const Tensor& expected) const {
    ASSERT_EQ(found.sizes(), expected.sizes());
    if (expected.numel() == 0) {
      return;
    }
    const Tensor exact = expected.detach().to(torch::kFloat64);
    const Tensor difference =
        (found.detach().to(torch::kFloat64) - exact).abs().max();
    const Tensor largest = exact.abs().max().clamp_min(1);
    EXPECT_LE(
        difference.item<double>(), tolerance(dtype()) * largest.item<double>());
  }

  static Parameters leaves(const Parameters& tensors) {
    Parameters copies;
    for (const Tensor& t : tensors) {
      copies.push_back(t.detach()
                           .to(torch::kFloat64)
                           .clone()
                           .requires_grad_(t.requires_grad()));
    }
    return copies;
  }

  void expect_gradients(const Parameters& found, const Parameters& expected)
      const {
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (expected[i].grad().defined()) {
        ASSERT_TRUE(found[i].grad().defined()) << "parameter " << i;
        expect_close(found[i].grad(), expected[i].grad());
      } else if (found[i].grad().defined()) {
        EXPECT_EQ(found[i].grad().abs().max().item<double>(), 0);
      }
    }
  }

  Tensor input_as_leaf() const {
    return input_.is_floating_point()
        ? input_.detach().to(torch::kFloat64).clone().requires_grad_()
        : input_;
  }

  std::shared_ptr<nn::Module> layer_;  // as it was made
  std::unique_ptr<LayerHost> host_;
  Tensor input_;
  Tensor base_;
};

TEST_P(LayerMatrix, IsTheIdentityAtBirth) {
  const Tensor before = forward();
  peft::inject_adapter_in_model(*method().config(), model());
  EXPECT_TRUE(torch::equal(forward(), before));
  EXPECT_TRUE(torch::equal(peft::effective_weight(weight()), base_));
}

TEST_P(LayerMatrix, ForwardAndGradientsAreThoseOfTheEffectiveWeight) {
  auto adapters = inject();
  const auto factors = adapters.parameters("default");
  const auto formed = peft::detail::effective_weights_formed();
  const Tensor y = forward();
  EXPECT_EQ(peft::detail::effective_weights_formed(), formed);

  const auto copies = leaves(factors);
  const Tensor x = input_as_leaf();
  const Tensor expected = run_plain(effective({copies}), x);
  expect_close(y, expected);
  expect_close(peft::effective_weight(weight()), effective({copies}).weight);

  const Tensor direction = torch::randn(y.sizes(), torch::kFloat64);
  (y.to(torch::kFloat64) * direction).sum().backward();
  (expected * direction).sum().backward();
  expect_gradients(factors, copies);
  if (x.requires_grad()) {
    expect_close(input_.grad(), x.grad());
  }
  EXPECT_FALSE(base_.requires_grad());
}

TEST_P(LayerMatrix, AnyOtherUseSeesTheEffectiveWeight) {
  auto adapters = inject();
  const auto factors = adapters.parameters("default");
  const auto copies = leaves(factors);
  const Tensor expected = effective({copies}).weight;
  expect_close(weight() * 2, expected * 2);
  expect_close(
      weight().flatten(1).slice(1, 0, 2), expected.flatten(1).slice(1, 0, 2));
  const Tensor index = torch::tensor({1, 0}, torch::kLong);
  const Tensor picked = weight().index_select(0, index);
  expect_close(picked, expected.index_select(0, index));
  picked.to(torch::kFloat64).sum().backward();
  expected.index_select(0, index).sum().backward();
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
  peft::inject_adapter_in_model(*method().config(), other->model());
  const auto report = peft::set_peft_model_state_dict(other->model(), state);
  EXPECT_TRUE(report.missing_keys.empty());
  EXPECT_TRUE(report.unexpected_keys.empty());
  EXPECT_TRUE(torch::equal(other->forward(input_), y));
}

TEST_P(LayerMatrix, UnloadRestoresTheVeryTensors) {
  const Tensor copy = base_.detach().clone();
  const Tensor before = forward();
  auto adapters = inject("a");
  inject_second("b");
  forward();
  adapters.unload();
  EXPECT_TRUE(weight().is_same(base_));
  EXPECT_TRUE(torch::equal(base_, copy));
  EXPECT_TRUE(base_.requires_grad());
  EXPECT_TRUE(model().named_children()["layer"]->children().empty());
  EXPECT_TRUE(torch::equal(forward(), before));
  EXPECT_TRUE(adapters.names().empty());
}

TEST_P(LayerMatrix, FollowsTheModelToAnotherDtype) {
  auto adapters = inject();
  host_->to(torch::kFloat64);
  EXPECT_EQ(weight().scalar_type(), torch::kFloat64);
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

INSTANTIATE_TEST_SUITE_P(
    All,
    LayerMatrix,
    testing::Combine(
        testing::ValuesIn(method_cases()),
        testing::ValuesIn(layer_cases()),
        testing::Values(
            torch::kFloat32,
            torch::kFloat64,
            torch::kBFloat16,
            torch::kFloat16),
        testing::Values(HostKind::module, HostKind::program)),
    [](const auto& test) {
      const bool module = std::get<3>(test.param) == HostKind::module;
      return std::get<0>(test.param).name + "_" + std::get<1>(test.param).name +
          "_" + c10::toString(std::get<2>(test.param)) +
          (module ? "_module" : "_program");
    });

}  // namespace
}  // namespace peft_test
