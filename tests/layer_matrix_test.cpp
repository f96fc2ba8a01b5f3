// SPDX-License-Identifier: Apache-2.0
// The property matrix: what must hold for LoRA on every layer kind and dtype.
//
// The oracle is plain autograd: a second layer whose weight is W + s B A,
// computed here from the factors by the formula and not by the library.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "hosting/adapted_weight.h"
#include "peft/peft.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

namespace nn = torch::nn;
using torch::Tensor;

/// A layer kind with the formula of its effective weight.
struct Case {
  std::string name;
  std::function<std::shared_ptr<nn::Module>()> make;
  std::function<Tensor(nn::Module&, const Tensor&)> forward;
  std::function<Tensor&(nn::Module&)> weight;
  std::function<Tensor()> input;
  /// s B A in the shape of the weight.
  std::function<Tensor(const Tensor& A, const Tensor& B, double s)> delta;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

Tensor matrix_delta(const Tensor& A, const Tensor& B, double s) {
  return B.mm(A) * s;
}
Tensor table_delta(const Tensor& A, const Tensor& B, double s) {
  return B.mm(A).t() * s;
}
Tensor kernel_delta(const Tensor& A, const Tensor& B, double s) {
  std::vector<int64_t> shape = {B.size(0)};
  for (int64_t i = 1; i < A.dim(); ++i) {
    shape.push_back(A.size(i));
  }
  return B.flatten(1).mm(A.flatten(1)).view(shape) * s;
}

template <class Holder>
Case layer(
    std::string name,
    std::function<Holder()> make,
    std::function<Tensor()> input,
    Tensor (*delta)(const Tensor&, const Tensor&, double)) {
  return {
      std::move(name),
      [make] { return make().ptr(); },
      [](nn::Module& m, const Tensor& x) { return m.as<Holder>()->forward(x); },
      [](nn::Module& m) -> Tensor& { return m.as<Holder>()->weight; },
      std::move(input),
      delta};
}

std::function<Tensor()> normal(std::vector<int64_t> shape) {
  return [shape] { return torch::randn(shape); };
}

// Every second column of a wider tensor: not contiguous.
std::function<Tensor()> strided(std::vector<int64_t> shape) {
  return [shape] {
    auto wide = shape;
    wide.back() *= 2;
    return torch::randn(wide).slice(-1, 0, wide.back(), 2);
  };
}

nn::Conv2dOptions conv2d(int64_t in, int64_t out, int64_t k) {
  return nn::Conv2dOptions(in, out, k);
}

std::vector<Case> cases() {
  std::vector<Case> all = {
      layer<nn::Linear>(
          "linear_2d",
          [] { return nn::Linear(7, 5); },
          normal({4, 7}),
          matrix_delta),
      layer<nn::Linear>(
          "linear_3d_strided",
          [] { return nn::Linear(7, 5); },
          strided({2, 3, 7}),
          matrix_delta),
      layer<nn::Linear>(
          "linear_1d",
          [] { return nn::Linear(7, 5); },
          normal({7}),
          matrix_delta),
      layer<nn::Linear>(
          "linear_empty",
          [] { return nn::Linear(7, 5); },
          normal({0, 7}),
          matrix_delta),
      layer<nn::Linear>(
          "linear_no_bias",
          [] { return nn::Linear(nn::LinearOptions(7, 5).bias(false)); },
          normal({4, 7}),
          matrix_delta),
      layer<nn::Conv1d>(
          "conv1d_dilated",
          [] { return nn::Conv1d(nn::Conv1dOptions(3, 5, 3).dilation(2)); },
          normal({2, 3, 9}),
          kernel_delta),
      layer<nn::Conv1d>(
          "conv1d_unbatched",
          [] { return nn::Conv1d(nn::Conv1dOptions(3, 5, 3)); },
          normal({3, 9}),
          kernel_delta),
      layer<nn::Conv2d>(
          "conv2d_strided_padded",
          [] { return nn::Conv2d(conv2d(3, 4, 3).stride(2).padding(1)); },
          normal({2, 3, 7, 6}),
          kernel_delta),
      layer<nn::Conv2d>(
          "conv2d_same",
          [] {
            return nn::Conv2d(
                conv2d(3, 4, 3).padding(torch::kSame).dilation(2));
          },
          normal({2, 3, 7, 6}),
          kernel_delta),
      layer<nn::Conv2d>(
          "conv2d_reflect",
          [] {
            return nn::Conv2d(
                conv2d(3, 4, 3).padding(1).padding_mode(torch::kReflect));
          },
          normal({2, 3, 7, 6}),
          kernel_delta),
      layer<nn::Conv2d>(
          "conv2d_circular",
          [] {
            return nn::Conv2d(
                conv2d(3, 4, 3).padding(1).padding_mode(torch::kCircular));
          },
          normal({2, 3, 7, 6}),
          kernel_delta),
      layer<nn::Conv2d>(
          "conv2d_replicate_1x1",
          [] {
            return nn::Conv2d(
                conv2d(3, 4, 1).padding(1).padding_mode(torch::kReplicate));
          },
          normal({2, 3, 7, 6}),
          kernel_delta),
      layer<nn::Conv3d>(
          "conv3d_1x1x3",
          [] { return nn::Conv3d(nn::Conv3dOptions(2, 4, {1, 1, 3})); },
          normal({2, 2, 3, 4, 5}),
          kernel_delta),
      layer<nn::Embedding>(
          "embedding",
          [] { return nn::Embedding(9, 5); },
          [] { return torch::tensor({{1, 8, 1}, {0, 3, 2}}, torch::kLong); },
          table_delta),
  };
  return all;
}

// A model with one child called "layer".
struct ParentImpl : nn::Module {
  explicit ParentImpl(std::shared_ptr<nn::Module> child)
      : layer(register_module("layer", std::move(child))) {}
  std::shared_ptr<nn::Module> layer;
};

double tolerance(torch::Dtype dtype) {
  switch (dtype) {
    case torch::kFloat64:
      return 1e-10;
    case torch::kFloat32:
      return 2e-5;
    case torch::kFloat16:
      return 1e-2;
    default:
      return 8e-2;  // bfloat16 keeps 8 bits
  }
}

class LayerMatrix
    : public testing::TestWithParam<std::tuple<Case, torch::Dtype>> {
 protected:
  void SetUp() override {
    torch::manual_seed(3);
    model_ = std::make_shared<ParentImpl>(the_case().make());
    model_->to(dtype());
    input_ = the_case().input();
    if (input_.is_floating_point()) {
      input_ = input_.to(dtype()).requires_grad_();
    }
    base_ = weight();
  }

  const Case& the_case() const { return std::get<0>(GetParam()); }
  torch::Dtype dtype() const { return std::get<1>(GetParam()); }
  Tensor& weight() { return the_case().weight(*model_->layer); }
  Tensor forward() { return the_case().forward(*model_->layer, input_); }

  static peft::LoraConfig config() {
    peft::LoraConfig config;
    config.r = 3;
    config.lora_alpha = 4.5;  // s = 1.5
    config.target_modules = {"layer"};
    return config;
  }

  peft::Adapters inject(const std::string& name = "default") {
    auto adapters = peft::inject_adapter_in_model(config(), *model_, name);
    randomise(adapters.parameters(name));
    return adapters;
  }

  // Sum of s B A over adapters, in double precision, from leaves `factors`.
  Tensor effective(const std::vector<Tensor>& factors, double s = 1.5) const {
    Tensor w = base_.detach().to(torch::kFloat64);
    for (std::size_t i = 0; i < factors.size(); i += 2) {
      w = w + the_case().delta(factors[i], factors[i + 1], s);
    }
    return w;
  }

  // The layer run on a given weight in double precision, by plain libtorch.
  Tensor run_plain(const Tensor& w, const Tensor& input) {
    auto layer = the_case().make();
    for (const auto& p : model_->layer->named_parameters(false)) {
      if (p.key() != "weight") {
        layer->named_parameters(false)[p.key()].set_data(
            p.value().detach().to(torch::kFloat64));
      }
    }
    the_case().weight(*layer) = w;
    return the_case().forward(*layer, input);
  }

  void expect_close(const Tensor& found, const Tensor& expected) const {
    ASSERT_EQ(found.sizes(), expected.sizes());
    EXPECT_TRUE(torch::allclose(
        found.to(torch::kFloat64),
        expected.to(torch::kFloat64),
        tolerance(dtype()),
        tolerance(dtype())))
        << "largest difference "
        << (found.to(torch::kFloat64) - expected).abs().max();
  }

  static std::vector<Tensor> leaves(const std::vector<Tensor>& tensors) {
    std::vector<Tensor> copies;
    for (const Tensor& t : tensors) {
      copies.push_back(t.detach().to(torch::kFloat64).clone().requires_grad_());
    }
    return copies;
  }

  Tensor input_as_leaf() const {
    return input_.is_floating_point()
        ? input_.detach().to(torch::kFloat64).clone().requires_grad_()
        : input_;
  }

  std::shared_ptr<ParentImpl> model_;
  Tensor input_;
  Tensor base_;
};

TEST_P(LayerMatrix, IsTheIdentityAtBirth) {
  const Tensor before = forward();
  peft::inject_adapter_in_model(config(), *model_);
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
  const Tensor expected = run_plain(effective(copies), x);
  expect_close(y, expected);
  expect_close(peft::effective_weight(weight()), effective(copies));

  const Tensor direction = torch::randn(y.sizes(), torch::kFloat64);
  (y.to(torch::kFloat64) * direction).sum().backward();
  (expected * direction).sum().backward();
  for (std::size_t i = 0; i < factors.size(); ++i) {
    expect_close(factors[i].grad(), copies[i].grad());
  }
  if (x.requires_grad()) {
    expect_close(input_.grad(), x.grad());
  }
  EXPECT_FALSE(base_.requires_grad());
}

TEST_P(LayerMatrix, AnyOtherUseSeesTheEffectiveWeight) {
  auto adapters = inject();
  const auto factors = adapters.parameters("default");
  const auto copies = leaves(factors);
  const Tensor expected = effective(copies);
  expect_close(weight() * 2, expected * 2);
  expect_close(
      weight().flatten(1).slice(1, 0, 2), expected.flatten(1).slice(1, 0, 2));
  const Tensor index = torch::tensor({1, 0}, torch::kLong);
  const Tensor picked = weight().index_select(0, index);
  expect_close(picked, expected.index_select(0, index));
  picked.to(torch::kFloat64).sum().backward();
  expected.index_select(0, index).sum().backward();
  for (std::size_t i = 0; i < factors.size(); ++i) {
    expect_close(factors[i].grad(), copies[i].grad());
  }
}

TEST_P(LayerMatrix, TwoAdaptersAddAndSwitch) {
  const Tensor base = forward();
  auto adapters = inject("a");
  inject("b");
  const auto a = leaves(adapters.parameters("a"));
  const auto b = leaves(adapters.parameters("b"));
  const Tensor x = input_as_leaf();
  EXPECT_EQ(adapters.active_adapters(), std::vector<std::string>{"b"});
  expect_close(forward(), run_plain(effective(b), x));
  adapters.set_adapter("a");
  expect_close(forward(), run_plain(effective(a), x));
  adapters.set_adapter(std::vector<std::string>{"a", "b"});
  expect_close(forward(), run_plain(effective({a[0], a[1], b[0], b[1]}), x));
  adapters.enable_adapters(false);
  EXPECT_TRUE(torch::equal(forward(), base));
  adapters.enable_adapters(true);
  adapters.delete_adapter("b");
  expect_close(forward(), run_plain(effective(a), x));
  adapters.set_scale("a", 2.0);
  expect_close(forward(), run_plain(effective(a, 3.0), x));
}

TEST_P(LayerMatrix, StateDictCarriesTheAdapterToAnotherModel) {
  inject();
  const Tensor y = forward();
  const auto state = peft::get_peft_model_state_dict(*model_);
  auto other = std::make_shared<ParentImpl>(the_case().make());
  other->to(dtype());
  for (const auto& p : model_->layer->named_parameters(false)) {
    other->layer->named_parameters(false)[p.key()].set_data(p.value());
  }
  peft::inject_adapter_in_model(config(), *other);
  const auto report = peft::set_peft_model_state_dict(*other, state);
  EXPECT_TRUE(report.missing_keys.empty());
  EXPECT_TRUE(report.unexpected_keys.empty());
  EXPECT_TRUE(torch::equal(the_case().forward(*other->layer, input_), y));
}

TEST_P(LayerMatrix, UnloadRestoresTheVeryTensors) {
  const Tensor copy = base_.detach().clone();
  const Tensor before = forward();
  auto adapters = inject("a");
  inject("b");
  forward();
  adapters.unload();
  EXPECT_TRUE(weight().is_same(base_));
  EXPECT_TRUE(torch::equal(base_, copy));
  EXPECT_TRUE(base_.requires_grad());
  EXPECT_TRUE(model_->layer->children().empty());
  EXPECT_TRUE(torch::equal(forward(), before));
  EXPECT_TRUE(adapters.names().empty());
}

TEST_P(LayerMatrix, FollowsTheModelToAnotherDtype) {
  auto adapters = inject();
  model_->to(torch::kFloat64);
  EXPECT_EQ(weight().scalar_type(), torch::kFloat64);
  const Tensor x = input_as_leaf();
  const auto copies = leaves(adapters.parameters("default"));
  const Tensor y = the_case().forward(*model_->layer, x);
  EXPECT_EQ(y.scalar_type(), torch::kFloat64);
  const Tensor expected = run_plain(effective(copies), x);
  EXPECT_TRUE(torch::allclose(y, expected, 1e-10, 1e-10));
}

INSTANTIATE_TEST_SUITE_P(
    All,
    LayerMatrix,
    testing::Combine(
        testing::ValuesIn(cases()),
        testing::Values(
            torch::kFloat32,
            torch::kFloat64,
            torch::kBFloat16,
            torch::kFloat16)),
    [](const auto& test) {
      return std::get<0>(test.param).name + "_" +
          c10::toString(std::get<1>(test.param));
    });

}  // namespace
}  // namespace peft_test
