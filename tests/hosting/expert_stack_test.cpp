// SPDX-License-Identifier: Apache-2.0
// Stacks of matrices (experts) in both layouts: each way to multiply with them
// runs on the factors. The oracle is autograd on W + s B A, matrix by matrix.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "hosting/adapted_weight.h"
#include "peft/peft.h"
#include "support/tiny_models.h"

namespace peft_test {
namespace {

using torch::Tensor;
namespace nn = torch::nn;

constexpr std::int64_t experts = 3, in = 5, out = 4, rank = 2;

template <bool inputs_first>
struct StackImpl : nn::Module {
  StackImpl() {
    const auto sizes = inputs_first
        ? std::vector<std::int64_t>{experts, in, out}
        : std::vector<std::int64_t>{experts, out, in};
    w = register_parameter("w", torch::randn(sizes) * 0.3);
  }
  Tensor w;
};

// [experts, out, in] as the layout has it, from PEFT's factors.
Tensor effective(const Tensor& w, const Tensor& A, const Tensor& B) {
  std::vector<Tensor> deltas;
  for (std::int64_t e = 0; e < experts; ++e) {
    const Tensor a = A.view({experts, rank, in})[e];
    const Tensor b = B.view({out, rank, experts}).select(2, e);
    const Tensor delta = 1.5 * b.mm(a);
    deltas.push_back(w.size(1) == in ? delta.t() : delta);
  }
  return w + torch::stack(deltas);
}

using Use = std::function<Tensor(const Tensor& w, const Tensor& x)>;

struct NamedUse {
  const char* name;
  Use use;
  bool by_factors = true;
};

// x is [experts, 2, in]; of a layout with the outputs first.
std::vector<NamedUse> uses_outputs_first() {
  return {
      {"linear_of_one",
       [](const Tensor& w, const Tensor& x) {
         return torch::linear(x[1], w[1]) + torch::linear(x[0], w[-1]);
       }},
      {"matmul_of_one_transposed",
       [](const Tensor& w, const Tensor& x) {
         return x[2].matmul(w.select(0, 2).t());
       }},
      {"one_of_transposed",
       [](const Tensor& w, const Tensor& x) {
         return x[2].mm(w.transpose(1, 2)[0]);
       }},
      {"unbound",
       [](const Tensor& w, const Tensor& x) {
         Tensor y = torch::zeros({2, out});
         const auto all = w.unbind();
         for (std::size_t e = 0; e < all.size(); ++e) {
           y = y + torch::linear(x[static_cast<std::int64_t>(e)], all[e]);
         }
         return y;
       }},
      {"bmm",
       [](const Tensor& w, const Tensor& x) {
         return torch::bmm(x, w.transpose(-1, -2));
       }},
      {"matmul_of_all",
       [](const Tensor& w, const Tensor& x) { return x[0].matmul(w.mT()); }},
      {"rows_of_one",
       [](const Tensor& w, const Tensor& x) {
         return torch::linear(x[0], w[1].slice(0, 1, 3));
       }},
      {"einsum",
       [](const Tensor& w, const Tensor& x) {
         return torch::einsum("eni,eoi->eno", {x, w});
       },
       false}};
}

std::vector<NamedUse> uses_inputs_first() {
  return {
      {"matmul_of_one",
       [](const Tensor& w, const Tensor& x) { return x[1].matmul(w[1]); }},
      {"linear_of_one_transposed",
       [](const Tensor& w, const Tensor& x) {
         return torch::linear(x[0], w[2].t());
       }},
      {"bmm", [](const Tensor& w, const Tensor& x) { return x.bmm(w); }},
      {"matmul_of_all",
       [](const Tensor& w, const Tensor& x) {
         return x.unsqueeze(0).matmul(w);
       }},
      {"matmul_broadcast",
       [](const Tensor& w, const Tensor& x) { return x[0].matmul(w); }}};
}

template <bool inputs_first>
void check(const std::vector<NamedUse>& uses) {
  using Stack = StackImpl<inputs_first>;
  torch::manual_seed(0);
  peft::register_layer<Stack>(
      {{"w",
        &Stack::w,
        inputs_first ? peft::WeightUse::linear_transposed
                     : peft::WeightUse::linear}});
  nn::Sequential model;
  const auto stack = std::make_shared<Stack>();
  model->register_module("experts", stack);
  peft::LoraConfig config;
  config.r = rank;
  config.lora_alpha = 3;
  config.target_parameters = {"experts.w"};
  auto adapters = peft::inject_adapter_in_model(config, *model);
  randomise(adapters.trainable_parameters());
  const auto factors = adapters.trainable_parameters();
  const Tensor base = peft::base_weight(stack->w);
  for (const NamedUse& named : uses) {
    SCOPED_TRACE(named.name);
    const Tensor x = torch::randn({experts, 2, in});
    const auto formed = peft::detail::effective_weights_formed();
    const Tensor y = named.use(stack->w, x);
    EXPECT_EQ(
        peft::detail::effective_weights_formed() - formed,
        named.by_factors ? 0 : 1);
    const Tensor a = factors[0].detach().clone().requires_grad_();
    const Tensor b = factors[1].detach().clone().requires_grad_();
    const Tensor expected = named.use(effective(base.detach(), a, b), x);
    ASSERT_TRUE(torch::allclose(y, expected, 1e-5, 1e-5));
    const Tensor direction = torch::randn(y.sizes());
    const auto found = torch::autograd::grad(
        {(y * direction).sum()}, {factors[0], factors[1]});
    const auto wanted =
        torch::autograd::grad({(expected * direction).sum()}, {a, b});
    EXPECT_TRUE(torch::allclose(found[0], wanted[0], 1e-4, 1e-5));
    EXPECT_TRUE(torch::allclose(found[1], wanted[1], 1e-4, 1e-5));
  }
}

TEST(ExpertStack, OutputsFirstRunsOnItsFactors) {
  check<false>(uses_outputs_first());
}

TEST(ExpertStack, InputsFirstRunsOnItsFactors) {
  check<true>(uses_inputs_first());
}

}  // namespace
}  // namespace peft_test
