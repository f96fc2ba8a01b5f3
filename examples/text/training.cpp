// SPDX-License-Identifier: Apache-2.0
// The order of the texts has a random generator of its own, so that it is the
// same whatever else draws numbers (dropout), in Python too.
#include "training.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include <ATen/CPUGeneratorImpl.h>

namespace finetune_text {
namespace {

constexpr std::int64_t test_batch_size = 50;

torch::Tensor as_tensor(const std::vector<std::int64_t>& values) {
  return torch::tensor(values, torch::kInt64);
}

}  // namespace

TextSet::TextSet(
    const std::vector<Example>& examples,
    const WordPiece& tokenizer,
    std::size_t max_length)
    : pad_(tokenizer.pad()) {
  for (const auto& example : examples) {
    ids_.push_back(tokenizer.encode(example.text, max_length));
    labels_.push_back(example.label);
  }
}

Batch TextSet::batch(const torch::Tensor& numbers) const {
  std::size_t longest = 0;
  std::vector<std::int64_t> labels;
  const auto count = numbers.size(0);
  const auto* number = numbers.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < count; ++i) {
    longest = std::max(longest, ids_.at(number[i]).size());
    labels.push_back(labels_[number[i]]);
  }
  const auto width = static_cast<std::int64_t>(longest);
  auto input_ids = torch::full({count, width}, pad_, torch::kInt64);
  auto attention_mask = torch::zeros({count, width}, torch::kInt64);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto& ids = ids_[number[i]];
    const auto length = static_cast<std::int64_t>(ids.size());
    input_ids[i].slice(0, 0, length).copy_(as_tensor(ids));
    attention_mask[i].slice(0, 0, length).fill_(1);
  }
  return {input_ids, attention_mask, as_tensor(labels)};
}

std::int64_t step_count(const TextSet& texts, const TrainingOptions& options) {
  const auto size = options.batch_size;
  return options.epochs * ((texts.size() + size - 1) / size);
}

void train(
    const TextModel& model,
    const std::vector<torch::Tensor>& parameters,
    const TextSet& texts,
    const TrainingOptions& options,
    const StepDone& step_done) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(options.seed);
  torch::optim::AdamW optimizer(parameters, options.learning_rate);
  model.train(true);
  for (std::int64_t epoch = 0; epoch < options.epochs; ++epoch) {
    const auto order = torch::randperm(texts.size(), generator, torch::kInt64);
    for (const auto& numbers : order.split(options.batch_size)) {
      const auto batch = texts.batch(numbers);
      optimizer.zero_grad();
      const auto logits = model.forward(batch);
      const auto loss =
          torch::nn::functional::cross_entropy(logits, batch.labels);
      const auto value = loss.item<double>();
      if (!std::isfinite(value)) {
        throw std::runtime_error(
            "the loss is not finite (hint: a smaller --lr)");
      }
      loss.backward();
      optimizer.step();
      step_done(value);
    }
  }
}

torch::Tensor predict(const TextModel& model, const TextSet& texts) {
  const torch::NoGradGuard no_grad;
  model.train(false);
  std::vector<torch::Tensor> logits;
  for (const auto& numbers :
       torch::arange(texts.size()).split(test_batch_size)) {
    const auto batch = texts.batch(numbers);
    logits.push_back(model.forward(batch));
  }
  return torch::cat(logits);
}

double accuracy(const torch::Tensor& logits, const TextSet& texts) {
  const auto labels = texts.batch(torch::arange(texts.size())).labels;
  return (logits.argmax(1) == labels).to(torch::kDouble).mean().item<double>();
}

}  // namespace finetune_text
