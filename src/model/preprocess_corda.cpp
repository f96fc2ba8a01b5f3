// SPDX-License-Identifier: Apache-2.0
// CorDA's pass over data: the covariance of each layer's inputs.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/matmul.h>

#include "base/text.h"
#include "hosting/input_observer.h"
#include "methods/finite.h"
#include "model/data_pass.h"
#include "peft/error.h"
#include "peft/lora_init_data.h"

namespace peft {
namespace {

constexpr const char* asking = "preprocess_corda";

struct Covariance {
  at::Tensor sum;  // [in, in]
  std::int64_t calls = 0;

  // As PEFT: each call's inputs are divided by their largest value.
  void see(const at::Tensor& x, at::ScalarType dtype) {
    const at::Tensor rows = x.reshape({-1, x.size(-1)}).to(dtype);
    if (rows.numel() == 0) {
      return;
    }
    const at::Tensor scaled = rows / rows.max().abs();
    const at::Tensor covariance = at::matmul(scaled.t(), scaled);
    sum = sum.defined() ? sum + covariance : covariance;
    ++calls;
  }

  bool is_finite() const { return detail::is_finite(sum); }
};

void check_files(const CordaConfig& corda) {
  if (corda.cache_file || corda.covariance_file) {
    throw Error(
        ErrorKind::unsupported,
        detail::concat(
            "[",
            asking,
            "] corda_config names a file, which holds a Python pickle; keep "
            "what this returns with save_safetensors instead"));
  }
}

}  // namespace

StateDict preprocess_corda(
    const LoraConfig& config,
    torch::nn::Module& model,
    const std::function<void()>& run_model) {
  const CordaConfig corda = config.corda_config.value_or(CordaConfig{});
  check_files(corda);
  detail::check_callback(static_cast<bool>(run_model), asking);
  const detail::ModuleHost host(model);
  const auto layers = detail::pass_layers(config, host, "corda", asking);
  const auto dtype = corda.use_float16_for_covariance ? at::kHalf : at::kFloat;
  std::vector<Covariance> found(layers.size());
  {
    const detail::PassMode mode(model, host, /*training=*/false);
    std::vector<std::unique_ptr<detail::InputObserver>> observers;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      observers.push_back(std::make_unique<detail::InputObserver>(
          layers[i].weight,
          [&, i](const at::Tensor& x) { found[i].see(x, dtype); }));
    }
    const at::NoGradGuard no_grad;
    run_model();
  }
  StateDict data;
  std::vector<std::string> unseen;
  std::vector<std::string> broken;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (found[i].calls == 0) {
      unseen.push_back(layers[i].path);
    } else if (!found[i].is_finite()) {
      broken.push_back(layers[i].path);
    } else {
      data.insert(
          layers[i].path,
          (found[i].sum / static_cast<double>(found[i].calls)).to(at::kFloat));
    }
  }
  detail::check_all_seen(unseen, asking, "saw no input");
  detail::check_all_seen(
      broken, asking, "saw inputs that are not finite, or none above zero");
  return data;
}

}  // namespace peft
