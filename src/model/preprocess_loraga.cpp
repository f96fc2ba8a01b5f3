// SPDX-License-Identifier: Apache-2.0
// LoRA-GA's pass over data: the mean gradient of each layer's weight.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include "base/text.h"
#include "methods/finite.h"
#include "model/data_pass.h"
#include "peft/error.h"
#include "peft/lora_init_data.h"

namespace peft {
namespace {

constexpr const char* asking = "preprocess_loraga";

// While it lives, these weights alone get gradients, and those are counted.
class Gradients {
 public:
  Gradients(
      const detail::ModuleHost& host,
      const std::vector<detail::PassLayer>& layers) {
    for (const auto& [path, parameter] : host.parameters()) {
      before_.push_back(
          {parameter, parameter.requires_grad(), parameter.grad()});
      parameter.set_requires_grad(false);
    }
    for (const auto& layer : layers) {
      at::Tensor weight = layer.weight.base;
      weight.mutable_grad() = at::Tensor();
      weight.set_requires_grad(true);
      auto count = std::make_shared<std::int64_t>(0);
      counts_.push_back(count);
      hooks_.emplace_back(
          weight,
          weight.register_hook([count](const at::Tensor&) { ++*count; }));
    }
  }

  ~Gradients() {
    for (auto& [weight, hook] : hooks_) {
      weight.remove_hook(hook);
    }
    for (auto& [parameter, required, gradient] : before_) {
      parameter.set_requires_grad(required);
      parameter.mutable_grad() = gradient;
    }
  }

  Gradients(const Gradients&) = delete;
  Gradients& operator=(const Gradients&) = delete;

  /// Undefined when there was none.
  at::Tensor mean(std::size_t layer) const {
    const at::Tensor& gradient = hooks_[layer].first.grad();
    return gradient.defined() && *counts_[layer] > 0
        ? gradient.detach() / static_cast<double>(*counts_[layer])
        : at::Tensor();
  }

 private:
  struct Before {
    at::Tensor parameter;
    bool required;
    at::Tensor gradient;
  };
  std::vector<Before> before_;
  std::vector<std::pair<at::Tensor, unsigned>> hooks_;
  std::vector<std::shared_ptr<std::int64_t>> counts_;
};

}  // namespace

StateDict preprocess_loraga(
    const LoraConfig& config,
    torch::nn::Module& model,
    const std::function<void()>& train_step) {
  if (!config.lora_ga_config) {  // as in PEFT
    throw Error(
        ErrorKind::config,
        detail::concat(
            "[",
            asking,
            "] config.lora_ga_config is not set; set it, to "
            "peft::LoraGAConfig{} for PEFT's defaults"));
  }
  detail::check_callback(static_cast<bool>(train_step), asking);
  const detail::ModuleHost host(model);
  const auto layers = detail::pass_layers(config, host, "lora_ga", asking);
  StateDict data;
  std::vector<std::string> unseen;
  std::vector<std::string> broken;
  const detail::PassMode mode(model, host, /*training=*/true);
  const Gradients gradients(host, layers);
  {
    const at::AutoGradMode with_gradients(true);
    train_step();
  }
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const at::Tensor gradient = gradients.mean(i);
    if (!gradient.defined()) {
      unseen.push_back(layers[i].path);
    } else if (!detail::is_finite(gradient)) {
      broken.push_back(layers[i].path);
    } else {
      data.insert(layers[i].path, gradient);
    }
  }
  detail::check_all_seen(unseen, asking, "got no gradient");
  detail::check_all_seen(broken, asking, "got a gradient that is not finite");
  return data;
}

}  // namespace peft
