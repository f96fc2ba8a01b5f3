// SPDX-License-Identifier: Apache-2.0
// The command line that the fine-tuning examples have in common.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>

#include "training.h"

namespace CLI {
class App;
}

namespace finetune_text {

struct Options {
  /// --model, or the environment's PEFT_DEMO_MODEL, or the build's.
  std::filesystem::path model;
  std::filesystem::path data;    ///< empty: the fortunes
  std::filesystem::path logits;  ///< empty: not written
  std::filesystem::path output;
  TrainingOptions training;
  std::int64_t r = 8;
  int threads = 0;  ///< 0: all cores
};

/// The defaults, and options in `app` to change them. `model_help`: what is
/// read from the folder --model.
void add_options(CLI::App& app, Options& options, const char* model_help);

/// Throws std::runtime_error unless `folder` has all `files`.
void require_model(
    const std::filesystem::path& folder,
    std::initializer_list<const char*> files);

}  // namespace finetune_text
