// SPDX-License-Identifier: Apache-2.0
// EVA's pass over data: where each layer's inputs vary most, batch by batch
// until the directions stand still.
#include <ATen/core/grad_mode.h>

#include "base/text.h"
#include "hosting/input_observer.h"
#include "methods/eva_ranks.h"
#include "model/data_pass.h"
#include "peft/error.h"
#include "peft/lora_init_data.h"

namespace peft {
namespace {

constexpr const char* asking = "preprocess_eva";

detail::EvaRanks make_ranks(
    const LoraConfig& config,
    const std::vector<detail::PassLayer>& layers) {
  const EvaConfig eva = config.eva_config.value_or(EvaConfig{});
  std::vector<detail::EvaLayer> named;
  for (const auto& layer : layers) {
    named.push_back({layer.path, layer.rank, layer.weight.layout->inputs});
  }
  return {std::move(named), {eva.rho, eva.tau, eva.whiten}};
}

// One batch, of whose inputs each layer sees what it still wants.
void run_one(
    const std::vector<detail::PassLayer>& layers,
    const EvaOptions& options,
    detail::EvaRanks& ranks,
    const std::function<void()>& run) {
  std::vector<std::unique_ptr<detail::InputObserver>> observers;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (ranks.wants(i)) {
      observers.push_back(std::make_unique<detail::InputObserver>(
          layers[i].weight, [&, i](const at::Tensor& x) {
            ranks.see(
                i,
                options.rows ? options.rows(x, layers[i].path)
                             : x.reshape({-1, x.size(-1)}));
          }));
    }
  }
  run();
  observers.clear();
  ranks.end_batch();
}

}  // namespace

StateDict preprocess_eva(
    const LoraConfig& config,
    torch::nn::Module& model,
    const std::function<void(std::int64_t batch)>& run_batch,
    const EvaOptions& options) {
  detail::check_callback(static_cast<bool>(run_batch), asking);
  const detail::ModuleHost host(model);
  const auto layers = detail::pass_layers(config, host, "eva", asking);
  detail::EvaRanks ranks = make_ranks(config, layers);
  {
    const detail::PassMode mode(model, host, /*training=*/false);
    const at::NoGradGuard no_grad;
    for (std::int64_t batch = 0; !ranks.done(); ++batch) {
      if (batch >= options.most_batches) {
        throw Error(
            ErrorKind::state,
            detail::concat(
                "[",
                asking,
                "] the directions still move after ",
                batch,
                " batches (",
                ranks.progress(),
                "); lower eva_config.tau, or raise EvaOptions::most_batches"));
      }
      run_one(layers, options, ranks, [&] { run_batch(batch); });
    }
  }
  StateDict data;
  const auto components = ranks.components();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    data.insert(layers[i].path, components[i].to(at::kFloat));
  }
  return data;
}

}  // namespace peft
