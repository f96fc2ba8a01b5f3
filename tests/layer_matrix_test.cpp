// SPDX-License-Identifier: Apache-2.0
// The property matrix: what must hold for LoRA on every layer kind and dtype,
// in torch::nn modules and in exported programs.
//
// The oracle is plain autograd: a second layer whose weight is W + s B A,
// computed here from the factors by the formula and not by the library.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "hosting/adapted_weight.h"
#include "peft/peft.h"
#include "support/layer_host.h"
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
  /// The same layer in a program; nullptr for what is several nodes there.
  ProgramLayerHost::AddNode add_node;
};

std::vector<std::pair<std::string, Json>> arguments_of(
    nn::Module& layer,
    const std::string& input) {
  return {
      {input, value("x")},
      {"weight", value("p_layer_weight")},
      {"bias",
       layer.named_parameters(false).contains("bias") ? value("p_layer_bias")
                                                      : none()}};
}

void add_linear_node(GraphBuilder& graph, nn::Module& layer) {
  graph.node(
      "torch.ops.aten.linear.default",
      arguments_of(layer, "input"),
      {"y"},
      "layer,torch.nn.modules.linear.Linear");
}

void add_embedding_node(GraphBuilder& graph, nn::Module&) {
  graph.node(
      "torch.ops.aten.embedding.default",
      {{"weight", value("p_layer_weight")}, {"indices", value("x")}},
      {"y"},
      "layer,torch.nn.modules.sparse.Embedding");
}

template <class Convolution>
void add_convolution_node(GraphBuilder& graph, nn::Module& layer) {
  const auto& options = layer.as<Convolution>()->options;
  const auto list = [](const auto& expanded) {
    return integers({expanded->begin(), expanded->end()});
  };
  auto arguments = arguments_of(layer, "input");
  arguments.emplace_back("stride", list(options.stride()));
  const bool same =
      std::holds_alternative<torch::enumtype::kSame>(options.padding());
  const std::string dims = std::to_string(options.stride()->size());
  if (same) {
    arguments.emplace_back("padding", text("same"));
  } else {
    using Sizes = torch::ExpandingArray<
        std::tuple_size_v<std::decay_t<decltype(*options.stride())>>>;
    arguments.emplace_back("padding", list(std::get<Sizes>(options.padding())));
  }
  arguments.emplace_back("dilation", list(options.dilation()));
  arguments.emplace_back("groups", integer(options.groups()));
  graph.node(
      "torch.ops.aten.conv" + dims + (same ? "d.padding" : "d.default"),
      arguments,
      {"y"},
      "layer,torch.nn.modules.conv.Conv" + dims + "d");
}

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
    Tensor (*delta)(const Tensor&, const Tensor&, double),
    ProgramLayerHost::AddNode add_node = nullptr) {
  return {
      std::move(name),
      [make] { return make().ptr(); },
      [](nn::Module& m, const Tensor& x) { return m.as<Holder>()->forward(x); },
      [](nn::Module& m) -> Tensor& { return m.as<Holder>()->weight; },
      std::move(input),
      delta,
      std::move(add_node)};
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
          matrix_delta,
          add_linear_node),
      layer<nn::Linear>(
          "linear_3d_strided",
          [] { return nn::Linear(7, 5); },
          strided({2, 3, 7}),
          matrix_delta,
          add_linear_node),
      layer<nn::Linear>(
          "linear_1d",
          [] { return nn::Linear(7, 5); },
          normal({7}),
          matrix_delta,
          add_linear_node),
      layer<nn::Linear>(
          "linear_empty",
          [] { return nn::Linear(7, 5); },
          normal({0, 7}),
          matrix_delta,
          add_linear_node),
      layer<nn::Linear>(
          "linear_no_bias",
          [] { return nn::Linear(nn::LinearOptions(7, 5).bias(false)); },
          normal({4, 7}),
          matrix_delta,
          add_linear_node),
      layer<nn::Conv1d>(
          "conv1d_dilated",
          [] { return nn::Conv1d(nn::Conv1dOptions(3, 5, 3).dilation(2)); },
          normal({2, 3, 9}),
          kernel_delta,
          add_convolution_node<nn::Conv1dImpl>),
      layer<nn::Conv1d>(
          "conv1d_unbatched",
          [] { return nn::Conv1d(nn::Conv1dOptions(3, 5, 3)); },
          normal({3, 9}),
          kernel_delta,
          add_convolution_node<nn::Conv1dImpl>),
      layer<nn::Conv2d>(
          "conv2d_strided_padded",
          [] { return nn::Conv2d(conv2d(3, 4, 3).stride(2).padding(1)); },
          normal({2, 3, 7, 6}),
          kernel_delta,
          add_convolution_node<nn::Conv2dImpl>),
      layer<nn::Conv2d>(
          "conv2d_same",
          [] {
            return nn::Conv2d(
                conv2d(3, 4, 3).padding(torch::kSame).dilation(2));
          },
          normal({2, 3, 7, 6}),
          kernel_delta,
          add_convolution_node<nn::Conv2dImpl>),
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
          kernel_delta,
          add_convolution_node<nn::Conv3dImpl>),
      layer<nn::Embedding>(
          "embedding",
          [] { return nn::Embedding(9, 5); },
          [] { return torch::tensor({{1, 8, 1}, {0, 3, 2}}, torch::kLong); },
          table_delta,
          add_embedding_node),
  };
  return all;
}

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

class LayerMatrix
    : public testing::TestWithParam<std::tuple<Case, torch::Dtype, HostKind>> {
 protected:
  void SetUp() override {
    if (std::get<2>(GetParam()) == HostKind::program && !the_case().add_node) {
      GTEST_SKIP() << "several nodes in a program";
    }
    torch::manual_seed(3);
    layer_ = the_case().make();
    layer_->to(dtype());
    input_ = the_case().input();
    if (input_.is_floating_point()) {
      input_ = input_.to(dtype()).requires_grad_();
    }
    host_ = make_host();
    base_ = weight();
  }

  // The layer, with the same values each time, in a model of its own.
  std::unique_ptr<LayerHost> make_host() const {
    if (std::get<2>(GetParam()) == HostKind::program) {
      return std::make_unique<ProgramLayerHost>(
          *layer_, input_, the_case().add_node);
    }
    auto layer = the_case().make();
    layer->to(dtype());
    for (const auto& p : layer_->named_parameters(false)) {
      layer->named_parameters(false)[p.key()].set_data(
          p.value().detach().clone());
    }
    return std::make_unique<ModuleLayerHost>(
        layer, the_case().forward, the_case().weight);
  }

  const Case& the_case() const { return std::get<0>(GetParam()); }
  torch::Dtype dtype() const { return std::get<1>(GetParam()); }
  nn::Module& model() { return host_->model(); }
  Tensor& weight() { return host_->weight(); }
  Tensor forward() { return host_->forward(input_); }

  static peft::LoraConfig config() {
    peft::LoraConfig config;
    config.r = 3;
    config.lora_alpha = 4.5;  // s = 1.5
    config.target_modules = {"layer"};
    return config;
  }

  peft::Adapters inject(const std::string& name = "default") {
    auto adapters = peft::inject_adapter_in_model(config(), model(), name);
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
    for (const auto& p : layer_->named_parameters(false)) {
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

  std::shared_ptr<nn::Module> layer_;  // as it was made
  std::unique_ptr<LayerHost> host_;
  Tensor input_;
  Tensor base_;
};

TEST_P(LayerMatrix, IsTheIdentityAtBirth) {
  const Tensor before = forward();
  peft::inject_adapter_in_model(config(), model());
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
  const auto state = peft::get_peft_model_state_dict(model());
  const auto other = make_host();
  peft::inject_adapter_in_model(config(), other->model());
  const auto report = peft::set_peft_model_state_dict(other->model(), state);
  EXPECT_TRUE(report.missing_keys.empty());
  EXPECT_TRUE(report.unexpected_keys.empty());
  EXPECT_TRUE(torch::equal(other->forward(input_), y));
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
            torch::kFloat16),
        testing::Values(HostKind::module, HostKind::program)),
    [](const auto& test) {
      const bool module = std::get<2>(test.param) == HostKind::module;
      return std::get<0>(test.param).name + "_" +
          c10::toString(std::get<1>(test.param)) +
          (module ? "_module" : "_program");
    });

}  // namespace
}  // namespace peft_test
