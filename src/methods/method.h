// SPDX-License-Identifier: Apache-2.0
// The one interface that a new method implements.
//
// A method knows tensors and its own config. It does not know layers, adapter
// names, merging or files; it holds no state that changes and may be shared by
// threads. It says what it stores, how that starts, what the effective weight
// is and, where it pays, a cheap form that hosting knows how to run inside
// linear, embedding and convolution.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/mistakes.h"
#include "methods/weight_layout.h"

namespace peft::detail {

/// One tensor a method stores for one weight. In the adapted layer it lives as
/// <dict>.<adapter name>[.<leaf>], in files as <layer>.<file_name>.
struct ParameterSpec {
  /// What stands under <dict>.<adapter name>.
  enum class Carrier { linear, convolution, holder, bare_parameter };

  std::string dict;       // "lora_A"
  std::string leaf;       // "weight"; "" for bare_parameter
  std::string file_name;  // "lora_A.weight"
  std::vector<std::int64_t> shape;
  Carrier carrier = Carrier::holder;
  bool is_buffer = false;  // kept and saved, never trained
};

/// W + scale * B A, run with its factors: see hosting/low_rank.h.
struct LowRank {
  at::Tensor A;
  at::Tensor B;
  double scale;
};

/// This tensor stands for the weight; nothing is added.
struct Replaced {
  at::Tensor weight;
};

/// monostate: no cheap form, hosting runs on the effective weight.
using CheapForm = std::variant<std::monostate, LowRank, Replaced>;

/// Dropout on the layer's input while training: a submodule called `dict`.
struct DropoutSpec {
  std::string dict;  // "lora_dropout"; "" for a method without
  double p = 0;
};

using Tensors = std::vector<at::Tensor>;

class Method {
 public:
  virtual ~Method() = default;

  /// Adds a mistake for each reason why this method cannot serve a weight of
  /// this layout; `where` names the weight.
  virtual void check(
      const WeightLayout& layout,
      const std::string& where,
      Mistakes& mistakes) const = 0;

  /// What is stored for a weight of this layout. Only called after check().
  virtual std::vector<ParameterSpec> parameters(
      const WeightLayout& layout) const = 0;

  /// Fills `parameters`, allocated by their specs in the weight's dtype and
  /// device, with their first values. `weight` is the plain base weight.
  virtual void initialise(
      const Tensors& parameters,
      const at::Tensor& weight,
      const WeightLayout& layout) const = 0;

  /// The weight as this adapter makes it, differentiable in both. `scale` is
  /// the user's factor (1 unless set). Throws Error (unsupported) when the
  /// result has no tensor of the weight's shape.
  virtual at::Tensor effective(
      const at::Tensor& weight,
      const Tensors& parameters,
      const WeightLayout& layout,
      double scale) const = 0;

  virtual CheapForm cheap_form(
      const Tensors& /*parameters*/,
      const WeightLayout& /*layout*/,
      double /*scale*/) const {
    return {};
  }

  virtual DropoutSpec dropout() const { return {}; }

  /// What `scale` multiplies, as PEFT's `scaling` shows it.
  virtual double strength() const { return 1; }
};

}  // namespace peft::detail
