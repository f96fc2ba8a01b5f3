// SPDX-License-Identifier: Apache-2.0
// Texts as batches of tensors, and an ordinary libtorch training loop over
// them. It trains the parameters it is given and knows nothing of adapters,
// nor what kind of model there is.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <torch/torch.h>

#include "text_data.h"
#include "word_piece.h"

namespace finetune_text {

/// B texts, padded to the longest of them, L tokens.
struct Batch {
  torch::Tensor input_ids, attention_mask;  ///< [B, L], int64
  torch::Tensor labels;                     ///< [B], int64
};

/// Texts, tokenised once.
class TextSet {
 public:
  TextSet(
      const std::vector<Example>& examples,
      const WordPiece& tokenizer,
      std::size_t max_length);

  std::int64_t size() const { return static_cast<std::int64_t>(ids_.size()); }
  /// The texts with these numbers, an int64 tensor.
  Batch batch(const torch::Tensor& numbers) const;

 private:
  std::vector<std::vector<std::int64_t>> ids_;
  std::vector<std::int64_t> labels_;
  std::int64_t pad_;
};

/// What the loop needs to know of a model: two functions.
struct TextModel {
  /// Logits [B, C].
  std::function<torch::Tensor(const Batch&)> forward;
  /// Switches dropout on (true) or off.
  std::function<void(bool on)> train;
};

struct TrainingOptions {
  std::int64_t epochs = 1;
  std::int64_t batch_size = 32;
  double learning_rate = 1e-3;
  std::uint64_t seed = 0;  ///< of the order of the texts
};

/// Called after each step with its loss.
using StepDone = std::function<void(double loss)>;

std::int64_t step_count(const TextSet& texts, const TrainingOptions& options);

/// Cross entropy, AdamW. The model is left in training mode. Throws
/// std::runtime_error when the loss is no longer a number.
void train(
    const TextModel& model,
    const std::vector<torch::Tensor>& parameters,
    const TextSet& texts,
    const TrainingOptions& options,
    const StepDone& step_done);

/// Logits [N, C] of all texts, in order. The model is left in eval mode.
torch::Tensor predict(const TextModel& model, const TextSet& texts);

/// The share of texts whose largest logit is that of their label.
double accuracy(const torch::Tensor& logits, const TextSet& texts);

}  // namespace finetune_text
