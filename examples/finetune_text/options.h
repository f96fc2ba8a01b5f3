// SPDX-License-Identifier: Apache-2.0
// The command line of finetune_text.
#pragma once

#include <cstdint>
#include <filesystem>

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
  std::filesystem::path output = "finetune_text_adapter";
  TrainingOptions training;
  std::int64_t r = 8;
  int threads = 0;  ///< 0: all cores
};

/// The defaults, and options in `app` to change them.
void add_options(CLI::App& app, Options& options);

/// Throws std::runtime_error unless `folder` has the files of a BERT.
void require_model(const std::filesystem::path& folder);

}  // namespace finetune_text
