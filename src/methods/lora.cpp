// SPDX-License-Identifier: Apache-2.0
// LoRA: W' = W + s B A, s = alpha / r (rsLoRA: alpha / sqrt(r)).
// https://arxiv.org/abs/2106.09685, https://arxiv.org/abs/2312.03732
//
// layout   A                       B                           PEFT keys
// matrix   [r, in]                 [out, r]                    lora_A.weight
// kernel   [r, in, window]         [out, r / groups, 1...]     lora_B.weight
// stack    [r count, in]           [out, r count], rank-major  (the same)
// table    [r, rows]               [dim, r]                    lora_embedding_A
//
// A kernel's A reads all input channels even when the base has groups, so a
// grouped kernel has no effective weight of its own shape (as in PEFT).
#include "methods/lora.h"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/mm.h>

#include "base/text.h"
#include "matching/name_pattern.h"
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
    if (layout.form == Form::stack && settings_.dropout > 0) {
      mistakes.add(
          ErrorKind::config,
          concat(
              where,
              ": lora_dropout = ",
              settings_.dropout,
              " has no ",
              "meaning for a stack of matrices; set lora_dropout = 0"));
    }
  }

  std::vector<ParameterSpec> parameters(
      const WeightLayout& layout) const override {
    const std::int64_t r = settings_.r;
    if (layout.form == Form::table) {
      return {
          {"lora_embedding_A",
           "",
           "lora_embedding_A",
           {r, layout.inputs},
           Carrier::bare_parameter},
          {"lora_embedding_B",
           "",
           "lora_embedding_B",
           {layout.outputs, r},
           Carrier::bare_parameter}};
    }
    const std::int64_t rank = r * layout.count;
    std::vector<std::int64_t> a = {rank, layout.inputs};
    std::vector<std::int64_t> b = {layout.outputs, rank / layout.groups};
    a.insert(a.end(), layout.window.begin(), layout.window.end());
    b.insert(b.end(), layout.window.size(), 1);
    const auto carrier =
        layout.window.empty() ? Carrier::linear : Carrier::convolution;
    return {
        {"lora_A", "weight", "lora_A.weight", a, carrier},
        {"lora_B", "weight", "lora_B.weight", b, carrier}};
  }

  void initialise(
      const Tensors& parameters,
      const at::Tensor& /*weight*/,
      const WeightLayout& layout) const override {
    const at::Tensor& A = parameters[0];
    const at::Tensor& B = parameters[1];
    if (layout.form == Form::table) {
      // PEFT starts tables the other way round, whatever the scheme: B random
      // and A zero; with init_lora_weights = false both are random.
      A.zero_();
      B.normal_();
      if (!settings_.init.is_default() && !settings_.init.is_named()) {
        A.normal_();
      }
      return;
    }
    if (settings_.init.is_named()) {
      A.normal_(0, 1.0 / static_cast<double>(settings_.r));
      B.zero_();
      return;
    }
    fill_as_linear(A);
    if (settings_.init.is_default()) {
      B.zero_();
    } else {
      fill_as_linear(B);
    }
  }

  at::Tensor effective(
      const at::Tensor& weight,
      const Tensors& parameters,
      const WeightLayout& layout,
      double scale) const override {
    // bfloat16 and float16 factors are multiplied in float32, rounded once.
    const auto exact = [](const at::Tensor& t) {
      return t.scalar_type() == at::kHalf || t.scalar_type() == at::kBFloat16
          ? t.to(at::kFloat)
          : t;
    };
    const at::Tensor product =
        multiply(exact(parameters[0]), exact(parameters[1]), layout);
    return at::add(
               weight.to(product.scalar_type()),
               product.reshape(weight.sizes()),
               scale * settings_.strength)
        .to(weight.scalar_type());
  }

  CheapForm cheap_form(
      const Tensors& parameters,
      const WeightLayout& layout,
      double scale) const override {
    if (layout.form == Form::stack) {
      return {};
    }
    return LowRank{parameters[0], parameters[1], scale * settings_.strength};
  }

  DropoutSpec dropout() const override {
    return {"lora_dropout", settings_.dropout};
  }

  double strength() const override { return settings_.strength; }

 private:
  // kaiming_uniform_(a = sqrt(5)), what nn.Linear and nn.ConvNd start with:
  // uniform within 1 / sqrt(fan in).
  static void fill_as_linear(const at::Tensor& factor) {
    const auto fan_in = factor.numel() / factor.size(0);
    const double bound = 1.0 / std::sqrt(static_cast<double>(fan_in));
    factor.uniform_(-bound, bound);
  }

  static at::Tensor multiply(
      const at::Tensor& A,
      const at::Tensor& B,
      const WeightLayout& layout) {
    switch (layout.form) {
      case Form::table:
        return at::mm(B, A).t();
      case Form::stack: {
        const auto a = A.view({layout.count, -1, layout.inputs});
        const auto b = B.view({layout.outputs, -1, layout.count});
        return at::einsum(
            layout.inputs_first ? "ore,eri->eio" : "ore,eri->eoi", {b, a});
      }
      case Form::kernel:
        if (layout.groups != 1) {
          throw Error(
              ErrorKind::unsupported,
              concat(
                  "the LoRA of a convolution with groups = ",
                  layout.groups,
                  " reads all input channels and has no effective weight ",
                  "of the convolution's own shape; use the weight in a "
                  "convolution, or adapt another layer"));
        }
        return at::mm(B.flatten(1), A.flatten(1));
      default:
        return layout.inputs_first ? at::mm(B, A).t() : at::mm(B, A);
    }
  }

  Settings settings_;
};

}  // namespace

std::unique_ptr<const Method> make_lora(
    const AdapterConfig& config,
    const std::string& path) {
  const auto& lora = dynamic_cast<const LoraConfig&>(config);
  const auto r = value_for_path(lora.rank_pattern, path).value_or(lora.r);
  const auto alpha =
      value_for_path(lora.alpha_pattern, path).value_or(lora.lora_alpha);
  const auto rank = static_cast<double>(r);
  return std::make_unique<Lora>(Settings{
      .r = r,
      .strength = alpha / (lora.use_rslora ? std::sqrt(rank) : rank),
      .dropout = lora.lora_dropout,
      .init = lora.init_lora_weights});
}

void fit_lora(
    AdapterConfig& config,
    const std::string& path,
    const WeightLayout& layout,
    const StoredShapes& shapes) {
  auto& lora = dynamic_cast<LoraConfig&>(config);
  const auto expected =
      value_for_path(lora.rank_pattern, path).value_or(lora.r);
  for (const auto& [name, shape] : shapes) {
    const bool is_A = name == "lora_A.weight" || name == "lora_embedding_A";
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
      const auto key = exact_path_key(path);
      std::erase_if(lora.rank_pattern, [&](const auto& entry) {
        return entry.first == key;
      });
      lora.rank_pattern.insert(lora.rank_pattern.begin(), {key, stored});
    }
  }
}

void settle_lora(AdapterConfig& config, const std::vector<std::string>& paths) {
  auto& lora = dynamic_cast<LoraConfig&>(config);
  lora.rank_pattern = order_free(lora.rank_pattern, paths);
  lora.alpha_pattern = order_free(lora.alpha_pattern, paths);
}

}  // namespace peft::detail
