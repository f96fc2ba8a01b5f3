// SPDX-License-Identifier: Apache-2.0
// AdaLoRA: W' = W + s B (E * A), s = alpha / (init_r + 1e-5), a singular value
// in E for each row of A and column of B; training sets values to zero where
// rank is worth least (rank_allocator.cpp). https://arxiv.org/abs/2303.10512
//
// Keys: lora_A [r, everything an output reads], lora_E [r, 1], lora_B [out, r].
// Files hold the r that is left, and rank_pattern says which of init_r it is.
#include "methods/adalora.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include "base/text.h"
#include "methods/factor_limits.h"
#include "methods/low_rank_factors.h"
#include "peft/adalora_config.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

using Form = WeightLayout::Form;
using Mask = std::vector<bool>;

struct Settings {
  std::int64_t r;
  double strength;
  double dropout;
  bool starts_at_zero;
};

class AdaLora final : public Method {
 public:
  explicit AdaLora(Settings settings) : settings_(settings) {}

  void check(
      const WeightLayout& layout,
      const std::string& where,
      Mistakes& mistakes) const override {
    const bool fits =
        layout.form == Form::matrix || layout.form == Form::kernel;
    if (!fits || layout.groups != 1) {
      mistakes.add(
          ErrorKind::unsupported,
          concat(
              where,
              ": AdaLoRA needs the matrix of a linear layer or a convolution "
              "in one group, found ",
              layout.describe()));
    }
    check_factors(settings_.r, settings_.strength, layout, where, mistakes);
    if (layout.without_operator && settings_.dropout > 0) {
      mistakes.add(
          ErrorKind::config,
          concat(
              where,
              ": lora_dropout cannot act on a bare parameter, whose input is "
              "not known; set it to 0"));
    }
  }

  std::vector<ParameterSpec> parameters(
      const WeightLayout& layout) const override {
    std::int64_t reads = layout.inputs;
    for (const auto size : layout.window) {
      reads *= size;
    }
    const auto spec = [](const char* name, std::vector<std::int64_t> shape) {
      return ParameterSpec{
          name,
          "",
          name,
          std::move(shape),
          ParameterSpec::Carrier::bare_parameter};
    };
    return {
        spec("lora_A", {settings_.r, reads}),
        spec("lora_E", {settings_.r, 1}),
        spec("lora_B", {layout.outputs, settings_.r})};
  }

  void initialise(const Application& on) const override {
    constexpr double deviation = 0.02;
    const Tensors& p = on.parameters;
    p[0].normal_(0, settings_.starts_at_zero ? deviation : 1);
    p[2].normal_(0, settings_.starts_at_zero ? deviation : 1);
    if (settings_.starts_at_zero) {
      p[1].zero_();
    } else {
      p[1].normal_();
    }
  }

  at::Tensor effective(const at::Tensor& weight, const Application& on)
      const override {
    const LowRank form =
        low_rank(on, exact(on.parameters[0]), exact(on.parameters[1]));
    const at::Tensor product = multiply_factors(form.A, form.B, on.layout);
    return at::add(weight.to(product.scalar_type()), product, form.scale)
        .to(weight.scalar_type());
  }

  CheapForm cheap_form(const Application& on) const override {
    return low_rank(on, on.parameters[0], on.parameters[1]);
  }

  DropoutSpec dropout() const override {
    return {"lora_dropout", settings_.dropout};
  }

  double strength() const override { return settings_.strength; }

 private:
  LowRank low_rank(
      const Application& on,
      const at::Tensor& A,
      const at::Tensor& E) const {
    const auto [a, b] = factor_shapes(on.layout, settings_.r);
    return {
        (A * E).view(a),
        on.parameters[2].view(b),
        on.scale * settings_.strength};
  }

  Settings settings_;
};

// Which rows of E [r, 1] the mask leaves. Of an adapter that was loaded it
// speaks of more ranks than there are: then those that it took are the ones
// that are exactly zero.
at::Tensor rows_left(const Mask& mask, std::int64_t left, const at::Tensor& E) {
  if (static_cast<std::int64_t>(mask.size()) != E.size(0)) {
    const at::Tensor largest = std::get<1>(E.abs().flatten().topk(left));
    return std::get<0>(largest.sort());
  }
  std::vector<std::int64_t> rows;
  for (std::size_t i = 0; i < mask.size(); ++i) {
    if (mask[i]) {
      rows.push_back(static_cast<std::int64_t>(i));
    }
  }
  return at::tensor(rows, at::kLong).to(E.device());
}

}  // namespace

const std::vector<bool>* mask_of(
    const AdaLoraConfig& config,
    const std::string& file_prefix) {
  for (const auto& [key, mask] : config.rank_pattern) {
    if (key == file_prefix + ".lora_E") {
      return &mask;
    }
  }
  return nullptr;
}

std::unique_ptr<const Method> make_adalora(
    const AdapterConfig& config,
    const WeightName& name) {
  const auto& adalora = dynamic_cast<const AdaLoraConfig&>(config);
  const Mask* mask = mask_of(adalora, name.file_prefix);
  const auto full = static_cast<double>(adalora.init_r);
  return std::make_unique<AdaLora>(Settings{
      .r = mask ? std::count(mask->begin(), mask->end(), true) : adalora.init_r,
      .strength =
          (adalora.lora_alpha > 0 ? adalora.lora_alpha : full) / (full + 1e-5),
      .dropout = adalora.lora_dropout,
      // Any name stands for true, as in PEFT.
      .starts_at_zero = adalora.init_lora_weights != InitChoice(false)});
}

void adopt_adalora(
    AdapterConfig& config,
    const std::vector<StoredLayer>& layers) {
  auto& adalora = dynamic_cast<AdaLoraConfig&>(config);
  std::vector<std::pair<std::string, std::int64_t>> ranks;
  std::int64_t most = 0;
  for (const StoredLayer& layer : layers) {
    for (const auto& [name, shape] : layer.shapes) {
      if (name == "lora_E" && !shape.empty()) {
        ranks.emplace_back(layer.path + ".lora_E", shape[0]);
        most = std::max(most, shape[0]);
      }
    }
  }
  adalora.layers_to_transform = {};
  adalora.layers_pattern = {};
  adalora.rank_pattern.clear();
  if (most == 0) {
    return;
  }
  constexpr std::int64_t most_ranks = 1 << 24;  // a mask has one bit for each
  if (most > most_ranks) {
    throw Error(
        ErrorKind::shape,
        concat(
            "cannot inject from the state_dict: one of its lora_E has ",
            most,
            " ranks, more than any adapter"));
  }
  adalora.init_r = most;
  for (const auto& [key, rank] : ranks) {
    if (rank < most) {
      Mask mask(static_cast<std::size_t>(most), false);
      std::fill_n(mask.begin(), rank, true);
      adalora.rank_pattern.emplace_back(key, std::move(mask));
    }
  }
}

Tensors written_adalora(
    const AdapterConfig& config,
    const WeightName& name,
    const Tensors& parameters) {
  const Mask* mask =
      mask_of(dynamic_cast<const AdaLoraConfig&>(config), name.file_prefix);
  const auto ranks = parameters[0].size(0);
  const auto left = mask ? std::count(mask->begin(), mask->end(), true) : ranks;
  if (left >= ranks) {
    return parameters;
  }
  const at::Tensor index = rows_left(*mask, left, parameters[1].detach());
  return {
      parameters[0].detach().index_select(0, index),
      parameters[1].detach().index_select(0, index),
      parameters[2].detach().index_select(1, index)};
}

bool adalora_loads_in_peft(
    const AdapterConfig&,
    const std::string& layer_type) {
  return layer_type != "Conv1d" && layer_type != "Conv3d" &&
      layer_type != "MultiheadAttention";
}

}  // namespace peft::detail
