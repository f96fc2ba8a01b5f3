// SPDX-License-Identifier: Apache-2.0
// Passes over data for LoRA's data-driven starts: run one before injection and
// give what it found to it.
//
//   peft::LoraConfig config;
//   config.target_modules = {"query", "value"};
//   config.init_lora_weights = "corda";
//   const auto data = peft::preprocess_corda(
//       config, *model, [&] { model->forward(batch); });
//   auto adapters = peft::inject_adapter_in_model(
//       config, *model, "default", {.init_data = &data});
//
// The data is a StateDict by layer path: save_safetensors keeps it for later.
// Passes see linear layers (and GPT-2's Conv1D), as in PEFT; other layers that
// the config targets start as usual. Adapters that the model has already are
// off meanwhile, and the model is as it was afterwards, also after an error.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "peft/export.h"
#include "peft/lora_config.h"
#include "peft/safetensors.h"

namespace torch::nn {
class Module;
}

namespace peft {

/// For "corda" (https://arxiv.org/abs/2406.05223): the mean over all calls of
/// x' x / max(x)^2, [in, in] float32 for each layer, where x are the inputs it
/// saw. `run_model` runs forward on samples, in eval mode and without
/// gradients; 256 samples of a few hundred tokens are plenty.
/// Throws Error (state) for layers that saw nothing or something not finite.
PEFT_API StateDict preprocess_corda(
    const LoraConfig& config,
    torch::nn::Module& model,
    const std::function<void()>& run_model);

/// For "lora_ga" (https://arxiv.org/abs/2407.05000): the mean gradient of each
/// layer's weight, in its own shape. `train_step` runs forward and backward as
/// often as it likes, in training mode; no other parameter gets a gradient.
/// Throws Error (state) for layers that got none.
PEFT_API StateDict preprocess_loraga(
    const LoraConfig& config,
    torch::nn::Module& model,
    const std::function<void()>& train_step);

struct EvaOptions {
  /// The rows of a layer's input [..., in] that count, as [rows, in]: leave out
  /// padding here. Not set: all of them.
  std::function<at::Tensor(const at::Tensor& x, const std::string& layer)> rows;
  /// Throws Error (state) when the directions still move after so many.
  std::int64_t most_batches = 1000;
};

/// For "eva" (https://arxiv.org/abs/2410.07170): the directions in which each
/// layer's inputs vary most, [rank, in] float32. The ranks r of all layers are
/// shared out anew, at most rho r for one layer and 0 for some, which then get
/// no adapter. `run_batch(i)` runs forward on batch i of the data; i rises
/// until the directions stand still, so take it modulo the number of batches.
/// Eval mode, no gradients.
PEFT_API StateDict preprocess_eva(
    const LoraConfig& config,
    torch::nn::Module& model,
    const std::function<void(std::int64_t batch)>& run_batch,
    const EvaOptions& options = {});

}  // namespace peft
