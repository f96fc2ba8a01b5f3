// SPDX-License-Identifier: Apache-2.0
// What a fine-tuning run is around its model: texts, training, results in
// files, and a main function that tells mistakes to people.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <torch/torch.h>

#include "options.h"
#include "text_data.h"
#include "training.h"
#include "word_piece.h"

namespace finetune_text {

/// The texts to train and to test on, tokenised.
struct Texts {
  /// Reads --data and the vocabulary in --model, and says how much there is.
  explicit Texts(const Options& options);

  std::vector<std::string> labels;
  WordPiece tokenizer;
  TextSet train, test;

 private:
  Texts(const Options& options, const TextData& data);
};

/// Throws std::runtime_error when the tokenizer has more tokens than the
/// model's table of embeddings, [V, H].
void check_vocabulary(
    const WordPiece& tokenizer,
    const torch::Tensor& embeddings);

/// Trains with a progress bar, says the accuracy on the test texts before and
/// after, and returns their logits.
torch::Tensor fine_tune(
    const TextModel& model,
    const std::vector<torch::Tensor>& parameters,
    const Texts& texts,
    const TrainingOptions& options);

/// Throws unless `reloaded`, which has the saved adapter, gives the same
/// `logits` of the test texts.
void check_reloaded(
    const TextModel& reloaded,
    const Texts& texts,
    const torch::Tensor& logits);

/// A line for each label in labels.txt.
void save_labels(
    const std::vector<std::string>& labels,
    const std::filesystem::path& folder);

/// A safetensors file for check_in_python.py; nothing where `path` is empty.
void save_logits(
    const torch::Tensor& logits,
    const std::filesystem::path& path);

/// Parses the command line and runs. Returns what main is to return.
int run_main(
    const char* name,
    CLI::App& app,
    int argc,
    char** argv,
    const Options& options,
    const std::function<void()>& run);

}  // namespace finetune_text
