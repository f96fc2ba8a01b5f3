// SPDX-License-Identifier: Apache-2.0
// What the passes over data before an injection share: which layers they are
// for, and the model made ready and put back.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hosting/host.h"
#include "hosting/module_host.h"
#include "model/model_state.h"
#include "peft/lora_config.h"

namespace peft::detail {

/// A layer that a pass is for.
struct PassLayer {
  std::string path;  // what its data is called
  HostedTensor weight;
  std::int64_t rank;
};

/// Throws Error (config) unless `given`.
void check_callback(bool given, const char* asking);

/// Whether LoRA starts from data on a weight of this layout: linear layers.
bool starts_from_data(const WeightLayout& layout);

/// Throws Error (config) when the config asks for another scheme, and all that
/// an injection with it would throw.
std::vector<PassLayer> pass_layers(
    const LoraConfig& config,
    const ModuleHost& host,
    const char* scheme,
    const char* asking);

/// While it lives, the model is in training or eval mode and its adapters are
/// off. Afterwards all is as it was, each module's mode and buffers too.
class PassMode {
 public:
  PassMode(torch::nn::Module& model, const Host& host, bool training);
  ~PassMode();
  PassMode(const PassMode&) = delete;
  PassMode& operator=(const PassMode&) = delete;

 private:
  torch::nn::Module& model_;
  std::vector<std::pair<std::shared_ptr<torch::nn::Module>, bool>> modes_;
  bool root_mode_;
  // Running statistics, which training moves.
  std::vector<std::pair<at::Tensor, at::Tensor>> buffers_;
  std::shared_ptr<ModelState> state_;
  /// The base model, in this thread.
  std::optional<ThreadChoice> plain_;
};

/// Throws Error (state), naming `layers`, unless there are none.
void check_all_seen(
    const std::vector<std::string>& layers,
    const char* asking,
    const char* what);

}  // namespace peft::detail
