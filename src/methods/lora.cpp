// SPDX-License-Identifier: Apache-2.0
// LoRA: W' = W + s B A, s = alpha / r (rsLoRA: alpha / sqrt(r)).
// https://arxiv.org/abs/2106.09685, https://arxiv.org/abs/2312.03732
//
// Keys: lora_A.weight, lora_B.weight, with lora_bias lora_B.bias;
// lora_embedding_A, lora_embedding_B. Shapes: low_rank_factors.h.
//
// Initialisations that take a part of W out of the base (pissa, olora, ...)
// leave W as it is here: W' = W + s (B A - B0 A0), A0 and B0 the first factors.
#include "methods/lora.h"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include "base/text.h"
#include "matching/name_pattern.h"
#include "methods/dora.h"
#include "methods/lora_initialisation.h"
#include "methods/low_rank_factors.h"
#include "peft/lora_config.h"

namespace peft::detail {
namespace {

using Form = WeightLayout::Form;
using Carrier = ParameterSpec::Carrier;

struct Settings {
  std::int64_t r;
  double strength;
  double dropout;
  InitChoice init;
  bool with_bias;
  bool fan_in_fan_out;
};

class Lora final : public Method {
 public:
  explicit Lora(Settings settings) : settings_(std::move(settings)) {}

  void check(
      const WeightLayout& layout,
      const std::string& where,
      Mistakes& mistakes) const override {
    if (layout.form == Form::whole) {
      mistakes.add(
          ErrorKind::unsupported,
          concat(
              where,
              ": LoRA needs a matrix, a table, a kernel or a stack "
              "of matrices, found ",
              layout.describe()));
      return;
    }
    if (settings_.r % layout.groups != 0) {
      mistakes.add(
          ErrorKind::config,
          concat(
              where,
              ": r = ",
              settings_.r,
              " is not divisible by the ",
              "convolution's groups = ",
              layout.groups,
              "; set r, or rank_pattern for this module, to a multiple of ",
              layout.groups));
    }
    if (layout.without_operator) {
      check_bare(where, mistakes);
    }
    if (settings_.with_bias && layout.form == Form::table) {
      mistakes.add(
          ErrorKind::config,
          concat(where, ": lora_bias has no meaning for an embedding"));
    }
    check_initialisation(settings_.init, settings_.r, layout, where, mistakes);
  }

  std::vector<ParameterSpec> parameters(
      const WeightLayout& layout) const override {
    const auto [a, b] = factor_shapes(layout, settings_.r);
    if (layout.form == Form::table) {
      const auto carrier = Carrier::bare_parameter;
      return {
          {"lora_embedding_A", "", "lora_embedding_A", a, carrier},
          {"lora_embedding_B",
           "",
           "lora_embedding_B",
           b,
           carrier,
           starts_with_frozen_B(settings_.init)}};
    }
    const auto carrier =
        layout.window.empty() ? Carrier::linear : Carrier::convolution;
    std::vector<ParameterSpec> specs = {
        {"lora_A", "weight", "lora_A.weight", a, carrier},
        {"lora_B",
         "weight",
         "lora_B.weight",
         b,
         carrier,
         starts_with_frozen_B(settings_.init)}};
    if (settings_.with_bias) {
      specs[1].carrier = Carrier::holder;
      specs.push_back({"lora_B", "bias", "lora_B.bias", {layout.outputs}});
    }
    if (keeps_initial_factors(settings_.init)) {
      specs.push_back(
          {"lora_initial_A", "weight", "", a, Carrier::holder, true});
      specs.push_back(
          {"lora_initial_B", "weight", "", b, Carrier::holder, true});
    }
    return specs;
  }

  void initialise(const Application& on) const override {
    const Parts parts = parts_of(on);
    initialise_factors(
        settings_.init, parts.A, parts.B, on, settings_.strength);
    if (parts.bias.defined()) {
      parts.bias.zero_();
    }
    if (parts.A0.defined()) {
      parts.A0.copy_(parts.A);
      parts.B0.copy_(parts.B);
    }
  }

  at::Tensor effective(const at::Tensor& weight, const Application& on)
      const override {
    // bfloat16 and float16 factors are multiplied in float32, rounded once.
    const Parts parts = parts_of(on);
    at::Tensor product = multiply_factors(parts.A, parts.B, on.layout);
    if (parts.A0.defined()) {
      product = product - multiply_factors(parts.A0, parts.B0, on.layout);
    }
    return at::add(
               weight.to(product.scalar_type()),
               product.reshape(weight.sizes()),
               on.scale * settings_.strength)
        .to(weight.scalar_type());
  }

  CheapForm cheap_form(const Application& on) const override {
    if (on.layout.form == Form::stack) {
      return {};
    }
    const Parts parts = parts_of(on);
    return LowRank{
        .A = parts.A,
        .B = parts.B,
        .scale = on.scale * settings_.strength,
        .bias = on.layout.has_bias ? at::Tensor() : parts.bias,
        .A0 = parts.A0,
        .B0 = parts.B0};
  }

  bool changes_bias() const override { return settings_.with_bias; }

  at::Tensor effective_bias(const at::Tensor& bias, const Application& on)
      const override {
    return at::add(bias, parts_of(on).bias, on.scale * settings_.strength)
        .to(bias.scalar_type());
  }

  DropoutSpec dropout() const override {
    return {"lora_dropout", settings_.dropout};
  }

  double strength() const override { return settings_.strength; }

 private:
  struct Parts {
    at::Tensor A, B, bias, A0, B0;
  };

  Parts parts_of(const Application& on) const {
    Parts parts{.A = on.parameters[0], .B = on.parameters[1]};
    std::size_t next = 2;
    if (settings_.with_bias) {
      parts.bias = on.parameters[next++];
    }
    if (keeps_initial_factors(settings_.init) &&
        on.layout.form != Form::table) {
      parts.A0 = on.parameters[next++];
      parts.B0 = on.parameters[next++];
    }
    return parts;
  }

  // What acts inside an operator, which a bare parameter does not have.
  void check_bare(const std::string& where, Mistakes& mistakes) const {
    if (settings_.dropout > 0) {
      mistakes.add(
          ErrorKind::config,
          concat(
              where,
              ": lora_dropout = ",
              settings_.dropout,
              " cannot act on a bare parameter, whose input is not known; set "
              "it to 0"));
    }
    if (settings_.fan_in_fan_out) {
      mistakes.add(
          ErrorKind::config,
          concat(
              where,
              ": fan_in_fan_out has no meaning for a bare parameter; register "
              "it with WeightUse::linear_transposed instead"));
    }
    if (settings_.with_bias) {
      mistakes.add(
          ErrorKind::config,
          concat(where, ": lora_bias has no meaning for a bare parameter"));
    }
  }

  Settings settings_;
};

}  // namespace

std::unique_ptr<const Method> make_lora(
    const AdapterConfig& config,
    const WeightName& name) {
  const std::string& path = name.pattern_path;
  const auto& lora = dynamic_cast<const LoraConfig&>(config);
  const auto r = value_for_path(lora.rank_pattern, path).value_or(lora.r);
  const auto alpha =
      value_for_path(lora.alpha_pattern, path).value_or(lora.lora_alpha);
  const auto rank = static_cast<double>(r);
  auto method = std::make_unique<Lora>(Settings{
      .r = r,
      .strength = alpha / (lora.use_rslora ? std::sqrt(rank) : rank),
      .dropout = lora.lora_dropout,
      .init = lora.init_lora_weights,
      .with_bias = lora.lora_bias,
      .fan_in_fan_out = lora.fan_in_fan_out});
  return lora.use_dora ? with_magnitudes(std::move(method)) : std::move(method);
}

void fit_lora(
    AdapterConfig& config,
    const WeightName& name,
    const WeightLayout& layout,
    const StoredShapes& shapes) {
  const std::string& path = name.pattern_path;
  auto& lora = dynamic_cast<LoraConfig&>(config);
  const auto expected =
      value_for_path(lora.rank_pattern, path).value_or(lora.r);
  for (const auto& [key, shape] : shapes) {
    const bool is_A = key == "lora_A.weight" || key == "lora_embedding_A";
    if (!is_A || shape.empty()) {
      continue;
    }
    const auto stored = shape[0] / layout.count;
    // Only a rank that the config speaks of: any other is a mistake, which the
    // shapes will tell.
    const bool is_known = stored == lora.r ||
        std::any_of(lora.rank_pattern.begin(),
                    lora.rank_pattern.end(),
                    [&](const auto& entry) { return entry.second == stored; });
    if (is_known && stored != expected) {
      const auto exact = exact_path_key(path);
      std::erase_if(lora.rank_pattern, [&](const auto& entry) {
        return entry.first == exact;
      });
      lora.rank_pattern.insert(lora.rank_pattern.begin(), {exact, stored});
    }
  }
}

void settle_lora(AdapterConfig& config, const std::vector<std::string>& paths) {
  auto& lora = dynamic_cast<LoraConfig&>(config);
  lora.rank_pattern = order_free(lora.rank_pattern, paths);
  lora.alpha_pattern = order_free(lora.alpha_pattern, paths);
}

// Twice the rank with the same strength in every layer.
void make_plain_lora(AdapterConfig& config) {
  auto& lora = dynamic_cast<LoraConfig&>(config);
  if (!keeps_initial_factors(lora.init_lora_weights)) {
    return;
  }
  const double factor = lora.use_rslora ? std::sqrt(2.0) : 2.0;
  lora.r *= 2;
  lora.lora_alpha *= factor;
  for (auto& [key, rank] : lora.rank_pattern) {
    rank *= 2;
  }
  for (auto& [key, alpha] : lora.alpha_pattern) {
    alpha *= factor;
  }
  lora.init_lora_weights = true;
}

Tensors plain_lora(
    const AdapterConfig& config,
    const WeightName&,
    const Tensors& parameters) {
  const auto& lora = dynamic_cast<const LoraConfig&>(config);
  if (!keeps_initial_factors(lora.init_lora_weights)) {
    return parameters;
  }
  const at::Tensor A = parameters[0].detach();
  const at::Tensor B = parameters[1].detach();
  // A table took nothing out of its weight, but its rank doubles as well.
  const std::size_t first = lora.lora_bias ? 3 : 2;
  const bool has_initial = parameters.size() >= first + 2;
  const at::Tensor A0 = has_initial ? parameters[first] : at::zeros_like(A);
  const at::Tensor B0 = has_initial ? parameters[first + 1] : at::zeros_like(B);
  Tensors plain = parameters;
  plain[0] = at::cat({A, A0});
  plain[1] = at::cat({B, B0.neg()}, 1);
  return plain;
}

bool lora_loads_in_peft(
    const AdapterConfig& config,
    const std::string& layer_type) {
  const auto& lora = dynamic_cast<const LoraConfig&>(config);
  const auto is_one_of = [&](std::initializer_list<const char*> types) {
    return std::find(types.begin(), types.end(), layer_type) != types.end();
  };
  if (is_one_of({"RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"})) {
    return !lora.target_parameters.empty();
  }
  const std::string scheme = scheme_of(lora.init_lora_weights);
  const bool starts_plainly = scheme.empty() || scheme == "gaussian";
  if (is_one_of({"Conv1d", "Conv2d", "Conv3d"})) {
    return starts_plainly;
  }
  return layer_type != "MultiheadAttention" ||
      (starts_plainly && !lora.use_dora);
}

}  // namespace peft::detail
