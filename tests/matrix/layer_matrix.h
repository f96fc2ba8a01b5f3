// SPDX-License-Identifier: Apache-2.0
// What the tests of the property matrix share: one layer of each kind, dtype
// and host with adapters of one method, and the oracle, plain autograd on a
// second layer whose weight and bias are those that the method's formula gives
// (method_cases.cpp), in float64.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "hosting/adapted_weight.h"
#include "matrix/layer_cases.h"
#include "matrix/method_cases.h"
#include "support/tiny_models.h"

namespace peft_test {

// Of the largest element: sums over many positions cancel, and their rounding
// errors stay.
inline double tolerance(torch::Dtype dtype) {
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

// Of the layer, and whether its adapters are float32 where it is half.
struct Precision {
  torch::Dtype dtype;
  bool autocast_adapter_dtype = true;
};

using MatrixCase = std::tuple<MethodCase, LayerCase, Precision, HostKind>;

using Parameters = std::vector<Tensor>;

class LayerMatrix : public testing::TestWithParam<MatrixCase> {
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
  const Precision& precision() const { return std::get<2>(GetParam()); }
  torch::Dtype dtype() const { return precision().dtype; }
  // What adapters are to be made in.
  torch::Dtype adapter_dtype() const {
    return precision().autocast_adapter_dtype && dtype() != torch::kFloat64
        ? torch::kFloat32
        : dtype();
  }
  HostKind host_kind() const { return std::get<3>(GetParam()); }
  nn::Module& model() { return host_->model(); }
  Tensor& weight() { return host_->weight(); }
  Tensor forward() { return host_->forward(input_); }

  peft::Adapters inject(const std::string& name = "default") {
    return inject_into(model(), *method().config(), name);
  }

  peft::Adapters inject_into(
      nn::Module& model,
      const peft::AdapterConfig& config,
      const std::string& name = "default") const {
    auto adapters = peft::inject_adapter_in_model(
        config,
        model,
        name,
        {.autocast_adapter_dtype = precision().autocast_adapter_dtype});
    randomise(adapters.parameters(name));
    return adapters;
  }

  // A second adapter of a method that has one trainable adapter at most.
  peft::Adapters inject_second(const std::string& name) {
    const auto config = method().config();
    config->inference_mode = true;
    return inject_into(model(), *config, name);
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

inline auto all_cases() {
  return testing::Combine(
      testing::ValuesIn(method_cases()),
      testing::ValuesIn(layer_cases()),
      testing::Values(
          Precision{torch::kFloat32},
          Precision{torch::kFloat64},
          Precision{torch::kBFloat16},
          Precision{torch::kFloat16},
          Precision{torch::kBFloat16, /*autocast_adapter_dtype=*/false}),
      testing::Values(HostKind::module, HostKind::program));
}

inline std::string case_name(const testing::TestParamInfo<MatrixCase>& test) {
  const bool module = std::get<3>(test.param) == HostKind::module;
  const Precision& precision = std::get<2>(test.param);
  return std::get<0>(test.param).name + "_" + std::get<1>(test.param).name +
      "_" + c10::toString(precision.dtype) +
      (precision.autocast_adapter_dtype ? "" : "_throughout") +
      (module ? "_module" : "_program");
}

}  // namespace peft_test
