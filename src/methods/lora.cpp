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

#include <cmath>

#include <ATen/TensorOperators.h>

#include "base/text.h"
#include "config/lora_variants.h"
#include "matching/name_pattern.h"
#include "methods/data_start.h"
#include "methods/dora.h"
#include "methods/factor_limits.h"
#include "methods/lora_initialisation.h"
#include "methods/low_rank_factors.h"
#include "peft/error.h"
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
  bool activated;  // aLoRA
  DataStart data_start;
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
    const auto [r, strength] = std::pair(settings_.r, settings_.strength);
    if (!check_factors(r, strength, layout, where, mistakes)) {
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
    if (layout.without_operator || layout.form == Form::stack) {
      check_bare(where, mistakes);
    }
    if (settings_.with_bias && layout.form == Form::table) {
      mistakes.add(
          ErrorKind::config,
          concat(where, ": lora_bias has no meaning for an embedding"));
    }
    if (settings_.activated &&
        (layout.form != Form::matrix || layout.without_operator ||
         layout.positions_first)) {
      mistakes.add(
          ErrorKind::unsupported,
          concat(
              where,
              ": alora_invocation_tokens need a linear layer whose input is "
              "[batch, positions, features]; found ",
              layout.describe(),
              layout.positions_first ? " of an attention, which reads "
                                       "positions first"
                                     : ""));
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
    if (keeps_initial(layout)) {
      specs.push_back(
          {"lora_initial_A", "weight", "", a, Carrier::holder, true});
      specs.push_back(
          {"lora_initial_B", "weight", "", b, Carrier::holder, true});
    }
    return specs;
  }

  void initialise(const Application& on) const override {
    const Parts parts = parts_of(on);
    if (parts.bias.defined()) {
      parts.bias.zero_();
    }
    const bool from_data = settings_.data_start.applies_to(on.layout);
    if (from_data && on.init_data.defined()) {
      const FactorPair start =
          settings_.data_start.factors(on, settings_.r, settings_.strength);
      parts.A.copy_(start.A);
      parts.B.copy_(start.B);
    } else {
      initialise_factors(
          settings_.init, parts.A, parts.B, on, settings_.strength);
    }
    if (parts.A0.defined() && from_data && !on.init_data.defined()) {
      parts.A0.zero_();  // what was taken out of the base is not known
      parts.B0.zero_();
    } else if (parts.A0.defined()) {
      parts.A0.copy_(parts.A);
      parts.B0.copy_(parts.B);
    }
  }

  void check_data(
      const WeightLayout& layout,
      const at::Tensor& data,
      const std::string& where,
      Mistakes& mistakes) const override {
    settings_.data_start.check(layout, settings_.r, data, where, mistakes);
  }

  at::Tensor effective(const at::Tensor& weight, const Application& on)
      const override {
    if (settings_.activated) {
      throw Error(
          ErrorKind::unsupported,
          "an aLoRA adapter acts on some positions only and has no effective "
          "weight; use the layer, or set another adapter");
    }
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
    const Parts parts = parts_of(on);
    return LowRank{
        .A = parts.A,
        .B = parts.B,
        .scale = on.scale * settings_.strength,
        .bias =
            changes_bias() && on.layout.has_bias ? at::Tensor() : parts.bias,
        .A0 = parts.A0,
        .B0 = parts.B0,
        .activated = settings_.activated};
  }

  bool mixes_groups() const override { return true; }

  bool changes_bias() const override {
    return settings_.with_bias && !settings_.activated;
  }

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
    if (keeps_initial(on.layout)) {
      parts.A0 = on.parameters[next++];
      parts.B0 = on.parameters[next++];
    }
    return parts;
  }

  // Whether a part of the weight is the factors' start.
  bool keeps_initial(const WeightLayout& layout) const {
    const DataStart& data = settings_.data_start;
    return takes_weight_apart(settings_.init) && layout.form != Form::table &&
        (!data.is_set() || data.applies_to(layout));
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
      .fan_in_fan_out = lora.fan_in_fan_out,
      .activated = lora.alora_invocation_tokens.has_value(),
      .data_start = DataStart(lora)});
  return lora.use_dora ? with_magnitudes(std::move(method)) : std::move(method);
}

}  // namespace peft::detail
