// SPDX-License-Identifier: Apache-2.0
// IA3: y = l * (W x + b), or of a feed-forward module y = W (l * x) + b.
// https://arxiv.org/abs/2205.05638
//
// As a weight: W' = diag(l) W and b' = l * b, or W' = W diag(l). Several
// adapters multiply. Key: ia3_l, [out, 1] or feed-forward [1, in]; of a kernel
// [1, out or in, 1...].
#include "methods/ia3.h"

#include <algorithm>

#include <ATen/TensorOperators.h>

#include "base/text.h"
#include "matching/choice_matcher.h"
#include "matching/name_pattern.h"
#include "methods/low_rank_factors.h"
#include "peft/ia3_config.h"

namespace peft::detail {
namespace {

using Form = WeightLayout::Form;

class Ia3 final : public Method {
 public:
  Ia3(bool feedforward, bool starts_at_one)
      : feedforward_(feedforward), starts_at_one_(starts_at_one) {}

  void check(
      const WeightLayout& layout,
      const std::string& where,
      Mistakes& mistakes) const override {
    const bool fits =
        layout.form == Form::matrix || layout.form == Form::kernel;
    if (!fits || layout.without_operator) {
      mistakes.add(
          ErrorKind::unsupported,
          concat(
              where,
              ": IA3 scales what goes into or comes out of a linear layer or "
              "a convolution, found ",
              layout.describe(),
              layout.without_operator ? " that no operator of its own reads"
                                      : ""));
    }
  }

  std::vector<ParameterSpec> parameters(
      const WeightLayout& layout) const override {
    const auto size = feedforward_ ? layout.inputs : layout.outputs;
    std::vector<std::int64_t> shape = {1, size};
    if (layout.form == Form::kernel) {
      shape.insert(shape.end(), layout.window.size(), 1);
    } else if (!feedforward_) {
      shape = {size, 1};
    }
    return {
        {"ia3_l",
         "",
         "ia3_l",
         std::move(shape),
         ParameterSpec::Carrier::bare_parameter}};
  }

  void initialise(const Application& on) const override {
    if (starts_at_one_) {
      on.parameters[0].fill_(1);
    } else {
      on.parameters[0].normal_();
    }
  }

  at::Tensor effective(const at::Tensor& weight, const Application& on)
      const override {
    const at::Tensor l = strength_of(on);
    return (weight *
            (feedforward_ ? over_inputs(l, on.layout, weight)
                          : over_outputs(l, on.layout)))
        .to(weight.scalar_type());
  }

  CheapForm cheap_form(const Application& on) const override {
    return Gain{
        strength_of(on),
        feedforward_ ? Gain::Side::inputs : Gain::Side::outputs};
  }

  bool changes_bias() const override { return !feedforward_; }

  at::Tensor effective_bias(const at::Tensor& bias, const Application& on)
      const override {
    return (bias * strength_of(on)).to(bias.scalar_type());
  }

 private:
  // l as a vector. The user's scale goes from no effect at 0 to l at 1.
  static at::Tensor strength_of(const Application& on) {
    const at::Tensor l = on.parameters[0].flatten();
    return on.scale == 1 ? l : (l - 1) * on.scale + 1;
  }

  bool feedforward_;
  bool starts_at_one_;
};

bool is_feedforward(const IA3Config& config, const std::string& path) {
  return ChoiceMatcher(config.feedforward_modules).find(path).has_value();
}

// Whether a stored ia3_l is of the input side; nullopt when its shape fits
// both, or neither.
std::optional<bool> stored_as_feedforward(
    const WeightLayout& layout,
    const StoredShapes& shapes) {
  const auto shape_as = [&](bool feedforward) {
    return Ia3(feedforward, true).parameters(layout)[0].shape;
  };
  for (const auto& [name, shape] : shapes) {
    if (name == "ia3_l" && shape_as(true) != shape_as(false)) {
      if (shape == shape_as(true)) {
        return true;
      }
      if (shape == shape_as(false)) {
        return false;
      }
    }
  }
  return std::nullopt;
}

}  // namespace

std::unique_ptr<const Method> make_ia3(
    const AdapterConfig& config,
    const WeightName& name) {
  const auto& ia3 = dynamic_cast<const IA3Config&>(config);
  return std::make_unique<Ia3>(
      is_feedforward(ia3, name.pattern_path), ia3.init_ia3_weights);
}

void adopt_ia3(AdapterConfig& config, const std::vector<StoredLayer>& layers) {
  auto& ia3 = dynamic_cast<IA3Config&>(config);
  std::vector<std::string> feedforward;
  for (const StoredLayer& layer : layers) {
    bool is_one = is_feedforward(ia3, layer.path);
    for (const auto& [name, shape] : layer.shapes) {
      const bool tells = shape.size() == 2 && shape[0] != shape[1];
      is_one = tells ? shape[0] == 1 : is_one;
    }
    if (is_one) {
      feedforward.push_back(layer.path);
    }
  }
  ia3.feedforward_modules = std::move(feedforward);
}

// PEFT also takes a module for feed-forward whose name only ends with the
// letters of an entry ("w0" and "xw0"): the shape in the file tells.
void fit_ia3(
    AdapterConfig& config,
    const WeightName& name,
    const WeightLayout& layout,
    const StoredShapes& shapes) {
  auto& ia3 = dynamic_cast<IA3Config&>(config);
  const std::string& path = name.pattern_path;
  const auto stored = stored_as_feedforward(layout, shapes);
  if (stored.value_or(false) && !is_feedforward(ia3, path)) {
    auto& choice = ia3.feedforward_modules;
    if (choice.is_pattern()) {
      choice = ModuleChoice(
          concat("(", choice.pattern(), ")|", exact_path_key(path).substr(1)));
    } else {
      auto names =
          choice.is_list() ? choice.names() : std::vector<std::string>();
      names.push_back(path);
      choice = ModuleChoice(std::move(names));
    }
  }
}

bool ia3_loads_in_peft(const AdapterConfig&, const std::string& layer_type) {
  return layer_type != "Conv1d" && layer_type != "MultiheadAttention";
}

}  // namespace peft::detail
