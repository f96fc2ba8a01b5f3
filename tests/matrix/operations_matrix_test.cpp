// SPDX-License-Identifier: Apache-2.0
// The property matrix of operating adapters: merging, scopes and mixed batches.
#include "matrix/layer_matrix.h"
#include "peft/scopes.h"
#include "support/collect_warnings.h"

namespace peft_test {
namespace {

class OperationsMatrix : public LayerMatrix {
 protected:
  // The rows of the batch; 0: the layer has no batch.
  int64_t rows() const {
    const auto batch = layer_case().batch;
    return batch ? input_.size(*batch) : 0;
  }

  // Each parameter's gradient in double precision, zero where there is none.
  static Parameters gradients(const Tensor& loss, const Parameters& of) {
    Parameters inputs;
    for (const Tensor& parameter : of) {
      if (parameter.requires_grad()) {
        inputs.push_back(parameter);
      }
    }
    auto found = torch::autograd::grad(
        {loss},
        inputs,
        {},
        /*retain_graph=*/true,
        false,
        /*allow_unused=*/true);
    for (std::size_t i = 0; i < found.size(); ++i) {
      found[i] = found[i].defined()
          ? found[i].to(torch::kFloat64)
          : torch::zeros_like(inputs[i], torch::kFloat64);
    }
    return found;
  }

  // Half a unit in the last place of the dtype, and what float32 loses.
  void expect_rounded_once(const Tensor& found, const Tensor& exact) const {
    const Tensor rounded = exact.to(dtype());
    const auto [mantissa, exponent] = torch::frexp(rounded.to(torch::kFloat64));
    const Tensor ulp = torch::pow(2.0, exponent - 1) * epsilon();
    const Tensor difference = (found.to(torch::kFloat64) - exact).abs();
    EXPECT_TRUE((difference <= ulp * 0.501 + 1e-6).all().item<bool>());
  }

  // Parts of the formula are computed in the adapter's dtype: what was taken
  // out of the weight, and the norm that DoRA's magnitudes started as. In
  // float32 that counts only where the weight is float32 too.
  bool rounds_parts() const {
    return method().rounds_the_weight ||
        (method().name == "dora" && adapter_dtype() == dtype());
  }

  double epsilon() const {
    switch (dtype()) {
      case torch::kFloat16:
        return 0x1p-10;
      case torch::kBFloat16:
        return 0x1p-7;
      default:
        return 0x1p-20;  // of sums in float32
    }
  }
};

TEST_P(OperationsMatrix, MergedWeightsAreRoundedOnceAndLeaveNoTrace) {
  auto adapters = inject("a");
  inject_second("b");
  adapters.set_adapter({"a", "b"});
  const auto a = leaves(adapters.parameters("a"));
  const auto b = leaves(adapters.parameters("b"));
  const Parameters copies = leaves(bases_);
  const Tensor before = forward();
  for (int cycle = 0; cycle < 3; ++cycle) {
    adapters.merge_adapter();
    const auto formed = peft::detail::effective_weights_formed();
    expect_close(forward(), run_plain(effective({a, b}), input_as_leaf()));
    EXPECT_EQ(peft::detail::effective_weights_formed(), formed);
    const auto all = effective({a, b});
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!rounds_parts()) {
        expect_rounded_once(
            peft::effective_weight(weight(i)), as_held(all[i], i).detach());
      }
      EXPECT_TRUE(torch::equal(bases_[i].to(torch::kFloat64), copies[i]));
    }
    adapters.unmerge_adapter();
    EXPECT_TRUE(torch::equal(forward(), before));
  }
}

TEST_P(OperationsMatrix, ASubsetIsMergedAndMoreBesideIt) {
  auto adapters = inject("a");
  inject_second("b");
  const auto a = leaves(adapters.parameters("a"));
  const auto b = leaves(adapters.parameters("b"));
  const Tensor x = input_as_leaf();
  const CollectWarnings warnings;
  adapters.merge_adapter({"a"});
  expect_close(forward(), run_plain(effective({a}), x));
  adapters.merge_adapter({"b"});
  expect_close(forward(), run_plain(effective({a, b}), x));
  adapters.set_adapter("b");  // unmerges
  expect_close(forward(), run_plain(effective({b}), x));
}

TEST_P(OperationsMatrix, MergeAndUnloadLeavesAPlainLayer) {
  const CollectWarnings warnings;
  if (mixes_groups() && host_kind() == HostKind::program) {
    auto adapters = inject("a");
    EXPECT_THAT(
        error_of(peft::ErrorKind::state, [&] { adapters.merge_and_unload(); }),
        testing::HasSubstr("cannot be changed"));
    return;
  }
  if (method().name == "lora_bias" && !base_weights()[0].bias.defined()) {
    GTEST_SKIP() << "the layer has no bias that could take the adapter's";
  }
  for (const bool in_place : {false, true}) {
    auto adapters = inject("a");
    const auto a = leaves(adapters.parameters("a"));
    std::vector<const void*> memory;
    for (const Tensor& base : bases_) {
      memory.push_back(base.const_data_ptr());
    }
    const Tensor expected = run_plain(effective({a}), input_as_leaf());
    adapters.merge_and_unload({}, in_place);
    for (std::size_t i = 0; i < bases_.size(); ++i) {
      EXPECT_TRUE(weight(i).is_same(bases_[i]));
      EXPECT_EQ(bases_[i].const_data_ptr() == memory[i], in_place);
      EXPECT_TRUE(bases_[i].requires_grad());
    }
    expect_no_adapters_in_the_tree();
    expect_close(forward(), expected);
    if (mixes_groups()) {
      break;  // it is a layer of another kind now
    }
    // The next round starts from what this one left.
    const auto left = model().named_parameters();
    for (const auto& p : layer_->named_parameters()) {
      p.value().set_data(left["layer." + p.key()].detach().clone());
    }
  }
}

TEST_P(OperationsMatrix, ScopesChooseForTheirThread) {
  const Tensor base = forward();
  auto adapters = inject("a");
  inject_second("b");
  const Tensor b = forward();
  const auto a_leaves = leaves(adapters.parameters("a"));
  const Tensor x = input_as_leaf();
  {
    const peft::UseAdapter scope(adapters, "a");
    expect_close(forward(), run_plain(effective({a_leaves}), x));
    const peft::ScaleAdapters scaled(adapters, 2.0);
    expect_close(forward(), run_plain(effective({a_leaves}, 2.0), x));
    {
      const peft::DisableAdapters disabled(adapters);
      EXPECT_TRUE(torch::equal(forward(), base));
    }
    expect_close(forward(), run_plain(effective({a_leaves}, 2.0), x));
  }
  EXPECT_TRUE(torch::equal(forward(), b));
}

TEST_P(OperationsMatrix, RowsOfAMixedBatchAreThoseOfTheirAdapters) {
  if (rows() == 0) {
    GTEST_SKIP() << "the layer's input has no batch";
  }
  auto adapters = inject("a");
  inject_second("b");
  adapters.set_requires_grad("b", true);
  const std::vector<std::string> given = {"b", "a", "__base__", "b"};
  const std::vector<std::string> names(
      given.begin(), given.begin() + static_cast<std::ptrdiff_t>(rows()));
  Parameters trained = adapters.parameters("a");
  for (const Tensor& tensor : adapters.parameters("b")) {
    trained.push_back(tensor);
  }
  if (input_.requires_grad()) {
    trained.push_back(input_);
  }
  Tensor mixed;
  {
    const peft::BatchAdapters scope(adapters, names);
    if (!layer_case().takes_mixed_batches) {
      EXPECT_THAT(
          error_of(peft::ErrorKind::unsupported, [&] { forward(); }),
          testing::HasSubstr("run each adapter's rows by themselves"));
      return;
    }
    mixed = forward();
  }
  std::vector<Tensor> alone;
  for (int64_t row = 0; row < rows(); ++row) {
    std::optional<peft::UseAdapter> use;
    std::optional<peft::DisableAdapters> disable;
    if (names[static_cast<std::size_t>(row)] == "__base__") {
      disable.emplace(adapters);
    } else {
      use.emplace(adapters, names[static_cast<std::size_t>(row)]);
    }
    alone.push_back(forward().select(*layer_case().batch, row));
  }
  const Tensor expected = torch::stack(alone, *layer_case().batch);
  expect_close(mixed, expected);
  const Tensor direction = torch::randn(mixed.sizes(), torch::kFloat64);
  const auto loss = [&](const Tensor& y) {
    return (y.to(torch::kFloat64) * direction).sum();
  };
  const auto found = gradients(loss(mixed), trained);
  const auto wanted = gradients(loss(expected), trained);
  for (std::size_t i = 0; i < found.size(); ++i) {
    expect_close(found[i], wanted[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, OperationsMatrix, all_cases(), case_name);

}  // namespace
}  // namespace peft_test
