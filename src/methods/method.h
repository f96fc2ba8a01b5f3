// SPDX-License-Identifier: Apache-2.0
// The one interface that a new method implements.
//
// A method knows tensors and its own config. It does not know layers, adapter
// names, merging or files; it holds no state that changes and may be shared by
// threads. It says what it stores, how that starts, what the effective weight
// is and, where it pays, a cheap form that hosting knows how to run inside
// linear, embedding and convolution.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/mistakes.h"
#include "methods/squared_norms.h"
#include "methods/weight_layout.h"

namespace peft::detail {

/// One tensor a method stores for one weight. In the adapted layer it lives as
/// <dict>.<adapter name>[.<leaf>], in files as <layer>.<file_name>.
struct ParameterSpec {
  /// What stands under <dict>.<adapter name>; none: it is not in the tree,
  /// where Module::to() would cast integers too.
  enum class Carrier { linear, convolution, holder, bare_parameter, none };

  std::string dict;       // "lora_A"
  std::string leaf;       // "weight"; "" for bare_parameter
  std::string file_name;  // "lora_A.weight"; "" is in no file
  std::vector<std::int64_t> shape;
  Carrier carrier = Carrier::holder;
  bool is_buffer = false;                    // kept and saved, never trained
  std::string other_name = "";               // a second name that files may use
  std::optional<at::ScalarType> dtype = {};  // not set: the weight's
};

/// W' = gain * (W + scale * (B A - B0 A0)), run with its factors: see
/// hosting/apply_adapters.h. Undefined tensors mean: not there.
struct LowRank {
  at::Tensor A;
  at::Tensor B;
  double scale;
  at::Tensor bias = {};  // [outputs]: scale * bias is added to the result
  at::Tensor A0 = {};    // a product that the base holds already
  at::Tensor B0 = {};
  at::Tensor gain = {};  // [outputs]
  /// Acts at the positions of an AloraScope alone.
  bool activated = false;
};

/// W' = diag(vector) W, or W diag(vector).
struct Gain {
  enum class Side { outputs, inputs };
  at::Tensor vector;  // [outputs] or [inputs]
  Side side;
};

/// This tensor stands for the weight; nothing is added.
struct Replaced {
  at::Tensor weight;
};

/// Some rows of W' (of a table, or the outputs of a matrix) are these.
struct Rows {
  at::Tensor values;  // [rows, features]
  at::Tensor index;   // int64 [2, rows]: rising, and the place in values
};

/// W' = W; the layer's inputs are shown to `see` on the way.
struct Observed {
  const std::function<void(const at::Tensor& x)>* see;
};

/// monostate: no cheap form, hosting runs on the effective weight.
using CheapForm =
    std::variant<std::monostate, LowRank, Gain, Replaced, Rows, Observed>;

/// Dropout on the layer's input while training: a submodule called `dict`.
struct DropoutSpec {
  std::string dict;  // "lora_dropout"; "" for a method without
  double p = 0;
};

using Tensors = std::vector<at::Tensor>;
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// One adapter on one weight, as a method works on it.
struct Application {
  const at::Tensor& base;      // the plain weight, without any adapter
  const WeightLayout& layout;  // how it is read
  const Tensors& parameters;   // this adapter's, in the order of its specs
  const SquaredNorms& norms;   // of the base
  double scale = 1;            // the user's factor
  /// What a pass over data found for this weight; initialise() alone has it.
  at::Tensor init_data = {};
};

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

  /// Fills the parameters, allocated by their specs in the weight's dtype and
  /// device, with their first values.
  virtual void initialise(const Application& on) const = 0;

  /// Adds a mistake when `data`, which a pass found for the weight, cannot be
  /// what this method starts from.
  virtual void check_data(
      const WeightLayout& /*layout*/,
      const at::Tensor& /*data*/,
      const std::string& /*where*/,
      Mistakes& /*mistakes*/) const {}

  /// `weight`, which earlier adapters may have changed, as this adapter makes
  /// it; differentiable. Throws Error (unsupported) when there is no such
  /// tensor.
  virtual at::Tensor effective(const at::Tensor& weight, const Application& on)
      const = 0;

  /// Whether the result is a tensor of the method's own, its only parameter:
  /// what is written to the weight in place is written there.
  virtual bool replaces() const { return false; }

  /// Whether its effective weight of a kernel in groups reads every input, so
  /// that `weight` must come as one of a single group: see ungrouped().
  virtual bool mixes_groups() const { return false; }

  virtual CheapForm cheap_form(const Application& /*on*/) const { return {}; }

  /// Whether a layer's bias changes with its weight.
  virtual bool changes_bias() const { return false; }

  /// `bias` [outputs] as this adapter makes it. `on` is the weight's.
  virtual at::Tensor effective_bias(
      const at::Tensor& bias,
      const Application& /*on*/) const {
    return bias;
  }

  virtual DropoutSpec dropout() const { return {}; }

  /// What `scale` multiplies, as PEFT's `scaling` shows it.
  virtual double strength() const { return 1; }
};

}  // namespace peft::detail
