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
#include "matrix/matrix_cases.h"
#include "support/error_of.h"
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

using Parameters = std::vector<Tensor>;

class LayerMatrix : public testing::TestWithParam<MatrixCase> {
 protected:
  void SetUp() override {
    torch::manual_seed(3);
    layer_ = layer_case().make();
    layer_->to(dtype());
    input_ = layer_case().input();
    if (input_.is_floating_point()) {
      input_ = input_.to(dtype()).requires_grad_();
    }
    host_ = make_host();
    for (std::size_t i = 0; i < weight_cases().size(); ++i) {
      bases_.push_back(weight(i));
    }
  }

  // The layer, with the same values each time, in a model of its own.
  std::unique_ptr<LayerHost> make_host() const {
    if (host_kind() == HostKind::program) {
      return std::make_unique<ProgramLayerHost>(
          *layer_, input_, layer_case().add_node);
    }
    auto layer = layer_case().make();
    layer->to(dtype());
    copy_parameters(*layer_, *layer);
    std::vector<ModuleLayerHost::Member> members;
    for (const WeightCase& weight : weight_cases()) {
      members.push_back(weight.weight);
    }
    return std::make_unique<ModuleLayerHost>(
        layer, layer_case().forward, std::move(members));
  }

  static void copy_parameters(nn::Module& from, nn::Module& to) {
    auto own = to.named_parameters();
    for (const auto& p : from.named_parameters()) {
      Tensor& copy = own[p.key()];
      copy.set_data(p.value().detach().clone().to(copy.scalar_type()));
    }
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
  const std::vector<WeightCase>& weight_cases() const {
    return layer_case().weights;
  }
  bool mixes_groups() const {
    return method().mixes_groups && weight_cases().front().groups > 1;
  }
  nn::Module& model() { return host_->model(); }
  Tensor& weight(std::size_t place) { return host_->weight(place); }
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

  std::vector<Weights> base_weights() const {
    std::vector<Weights> all;
    for (std::size_t i = 0; i < weight_cases().size(); ++i) {
      const WeightCase& of = weight_cases()[i];
      const Tensor base = bases_[i].detach().to(torch::kFloat64);
      Weights weights{
          of.groups == 1 ? base : in_one_group(base, of.groups), Tensor()};
      const Tensor* bias = of.bias(*layer_);
      if (bias && bias->defined()) {
        const auto [begin, end] =
            of.bias_rows.value_or(std::pair(int64_t{0}, bias->size(0)));
        weights.bias = bias->detach().slice(0, begin, end).to(torch::kFloat64);
      }
      all.push_back(std::move(weights));
    }
    return all;
  }

  // The layer's weights with these adapters, one after the other.
  std::vector<Weights> effective(
      const std::vector<Parameters>& adapters,
      double scale = 1) const {
    const std::vector<Weights> base = base_weights();
    std::vector<Weights> now = base;
    for (const Parameters& parameters : adapters) {
      const std::size_t each = parameters.size() / now.size();
      EXPECT_EQ(each * now.size(), parameters.size());
      for (std::size_t i = 0; i < now.size(); ++i) {
        const auto first =
            parameters.begin() + static_cast<std::ptrdiff_t>(i * each);
        now[i] = method().apply(
            weight_cases()[i],
            now[i],
            base[i],
            {first, first + static_cast<std::ptrdiff_t>(each)},
            scale);
      }
    }
    return now;
  }

  // One of them in the shape in which the library has it.
  Tensor as_held(const Weights& weights, std::size_t place) const {
    const int64_t groups = weight_cases()[place].groups;
    return groups == 1 || mixes_groups() ? weights.weight
                                         : in_groups(weights.weight, groups);
  }

  // The layer run on given weights in double precision, by plain libtorch.
  Tensor run_plain(const std::vector<Weights>& all, const Tensor& input) const {
    auto layer = layer_case().make();
    layer->to(torch::kFloat64);
    copy_parameters(*layer_, *layer);
    for (const Tensor& parameter : layer->parameters()) {
      parameter.set_requires_grad(false);
    }
    if (layer_case().join_groups) {
      layer_case().join_groups(*layer);
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
      const WeightCase& of = weight_cases()[i];
      of.weight(*layer) = all[i].weight;
      if (Tensor* bias = of.bias(*layer); bias && all[i].bias.defined()) {
        *bias = of.bias_rows ? torch::cat(
                                   {bias->slice(0, 0, of.bias_rows->first),
                                    all[i].bias,
                                    bias->slice(0, of.bias_rows->second)})
                             : all[i].bias;
      }
    }
    return layer_case().forward(*layer, input);
  }

  void expect_close(const Tensor& found, const Tensor& expected) const {
    ASSERT_EQ(found.sizes(), expected.sizes());
    if (expected.numel() == 0) {
      return;  // which is all there is to compare
    }
    const Tensor exact = expected.detach().to(torch::kFloat64);
    const Tensor difference =
        (found.detach().to(torch::kFloat64) - exact).abs().max();
    const Tensor largest = exact.abs().max().clamp_min(1);
    EXPECT_LE(
        difference.item<double>(),
        tolerance(dtype()) * layer_case().rounds * largest.item<double>());
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

  void expect_no_adapters_in_the_tree() {
    EXPECT_EQ(
        model().named_children()["layer"]->children().size(),
        layer_->children().size());
  }

  Tensor input_as_leaf() const {
    return input_.is_floating_point()
        ? input_.detach().to(torch::kFloat64).clone().requires_grad_()
        : input_;
  }

  std::shared_ptr<nn::Module> layer_;  // as it was made
  std::unique_ptr<LayerHost> host_;
  Tensor input_;
  Parameters bases_;
};

}  // namespace peft_test
