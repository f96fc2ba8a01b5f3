// SPDX-License-Identifier: Apache-2.0
#include "methods/dora.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>

#include "base/text.h"
#include "methods/low_rank_factors.h"

namespace peft::detail {
namespace {

using Form = WeightLayout::Form;

// W A' in the better dtype of the two. A weight of less is widened some outputs
// at a time: whole, it would be a copy of the weight on every forward.
at::Tensor multiply_mixed(const at::Tensor& W, const at::Tensor& A) {
  constexpr std::int64_t at_once = std::int64_t{1} << 22;
  const auto dtype = at::promote_types(W.scalar_type(), A.scalar_type());
  const at::Tensor right = A.to(dtype).t();
  const std::int64_t rows = at_once / std::max<std::int64_t>(1, W.size(1)) + 1;
  if (W.scalar_type() == dtype || W.size(0) <= rows) {
    return at::mm(W.to(dtype), right);
  }
  std::vector<at::Tensor> products;
  for (const at::Tensor& some : W.split(rows)) {
    products.push_back(at::mm(some.to(dtype), right));
  }
  return at::cat(products);
}

// ||W0 + s B A|| by output, in float32 or better.
at::Tensor norms(const Application& on, const LowRank& low_rank) {
  at::Tensor A = low_rank.A.flatten(1);
  at::Tensor B = low_rank.B.flatten(1);
  if (low_rank.A0.defined()) {
    A = at::cat({A, low_rank.A0.flatten(1)});
    B = at::cat({B, low_rank.B0.flatten(1).neg()}, 1);
  }
  const double s = low_rank.scale;
  const at::Tensor W = as_matrix(on.base, on.layout);
  const at::Tensor b = exact(B);
  const at::Tensor shared = exact(multiply_mixed(W, A));
  const at::Tensor gram = at::mm(exact(A), exact(A).t());
  const at::Tensor squares = on.norms.of(on.base, on.layout) +
      (b * (shared * (2 * s) + at::mm(b, gram) * (s * s))).sum(1);
  return squares.clamp_min(0).sqrt();
}

class Dora final : public Method {
 public:
  explicit Dora(std::unique_ptr<const Method> lora) : lora_(std::move(lora)) {}

  void check(
      const WeightLayout& layout,
      const std::string& where,
      Mistakes& mistakes) const override {
    lora_->check(layout, where, mistakes);
    if (layout.form == Form::stack || layout.without_operator) {
      mistakes.add(
          ErrorKind::config,
          concat(
              where,
              ": use_dora has no meaning for a bare parameter; set it to "
              "false"));
    }
    if (layout.groups != 1) {
      mistakes.add(
          ErrorKind::unsupported,
          concat(
              where,
              ": use_dora needs the norm of W + s B A, which a convolution "
              "with groups = ",
              layout.groups,
              " does not have; leave the module out, or set use_dora = "
              "false"));
    }
  }

  std::vector<ParameterSpec> parameters(
      const WeightLayout& layout) const override {
    auto specs = lora_->parameters(layout);
    std::vector<std::int64_t> shape = {layout.outputs};
    if (layout.form == Form::kernel) {
      shape.insert(shape.begin(), 1);
      shape.insert(shape.end(), layout.window.size(), 1);
    }
    specs.push_back({
        .dict = "lora_magnitude_vector",
        .leaf = "weight",
        .file_name = "lora_magnitude_vector",
        .shape = std::move(shape),
        .other_name = "lora_magnitude_vector.weight",
    });
    return specs;
  }

  void initialise(const Application& on) const override {
    lora_->initialise(on);
    const at::Tensor& magnitude = on.parameters.back();
    magnitude.copy_(norms(on, factors(on)).view_as(magnitude));
  }

  at::Tensor effective(const at::Tensor& weight, const Application& on)
      const override {
    const at::Tensor sum = exact(lora_->effective(exact(weight), on));
    return (sum * over_outputs(gain(on, factors(on)), on.layout))
        .to(weight.scalar_type());
  }

  CheapForm cheap_form(const Application& on) const override {
    LowRank low_rank = factors(on);
    low_rank.gain = gain(on, low_rank);
    return low_rank;
  }

  DropoutSpec dropout() const override { return lora_->dropout(); }
  double strength() const override { return lora_->strength(); }

 private:
  LowRank factors(const Application& on) const {
    return std::get<LowRank>(lora_->cheap_form(on));
  }

  // m / n; n is rounded as m was, which may be half precision, so that the two
  // are equal at the start.
  static at::Tensor gain(const Application& on, const LowRank& low_rank) {
    const at::Tensor magnitude = on.parameters.back().flatten();
    at::Tensor n;
    {
      const at::NoGradGuard constant;
      n = exact(norms(on, low_rank).to(magnitude.scalar_type()))
              .clamp_min(std::numeric_limits<float>::min());
    }
    return exact(magnitude) / n;
  }

  std::unique_ptr<const Method> lora_;
};

}  // namespace

std::unique_ptr<const Method> with_magnitudes(
    std::unique_ptr<const Method> lora) {
  return std::make_unique<Dora>(std::move(lora));
}

}  // namespace peft::detail
