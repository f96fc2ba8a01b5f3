// SPDX-License-Identifier: Apache-2.0
#include "run.h"

#include <cstdio>
#include <exception>
#include <fstream>
#include <stdexcept>

#include <CLI/CLI.hpp>
#include <peft/peft.h>

#include "progress.h"

namespace finetune_text {
namespace {

constexpr std::size_t max_length = 64;  // tokens of a text that are read

}  // namespace

Texts::Texts(const Options& options)
    : Texts(
          options,
          options.data.empty() ? load_fortunes() : load_tsv(options.data)) {}

Texts::Texts(const Options& options, const TextData& data)
    : labels(data.labels),
      tokenizer(options.model / "vocab.txt"),
      train(data.train, tokenizer, max_length),
      test(data.test, tokenizer, max_length) {
  std::printf(
      "data       %zu labels, %zu texts to train, %zu to test\n",
      labels.size(),
      data.train.size(),
      data.test.size());
}

void check_vocabulary(
    const WordPiece& tokenizer,
    const torch::Tensor& embeddings) {
  const auto rows = embeddings.size(0);
  if (static_cast<std::int64_t>(tokenizer.size()) > rows) {
    throw std::runtime_error(
        "vocab.txt has " + std::to_string(tokenizer.size()) +
        " tokens, the model only " + std::to_string(rows));
  }
}

torch::Tensor fine_tune(
    const TextModel& model,
    const std::vector<torch::Tensor>& parameters,
    const Texts& texts,
    const TrainingOptions& options) {
  std::printf(
      "accuracy   %.3f before\n",
      accuracy(predict(model, texts.test), texts.test));
  Progress progress(
      step_count(texts.train, options), texts.train.size() * options.epochs);
  train(model, parameters, texts.train, options, [&](double loss) {
    progress.step(loss);
  });
  progress.finish();
  const auto logits = predict(model, texts.test);
  std::printf("accuracy   %.3f after\n", accuracy(logits, texts.test));
  return logits;
}

void check_reloaded(
    const TextModel& reloaded,
    const Texts& texts,
    const torch::Tensor& logits) {
  if (!torch::equal(predict(reloaded, texts.test), logits)) {
    throw std::runtime_error("the saved adapter gives other logits");
  }
}

void save_labels(
    const std::vector<std::string>& labels,
    const std::filesystem::path& folder) {
  std::ofstream file(folder / "labels.txt");
  for (const auto& label : labels) {
    file << label << '\n';
  }
}

void save_logits(
    const torch::Tensor& logits,
    const std::filesystem::path& path) {
  if (path.empty()) {
    return;
  }
  peft::StateDict tensors;
  tensors.insert("logits", logits);
  peft::save_safetensors(tensors, path);
}

int run_main(
    const char* name,
    CLI::App& app,
    int argc,
    char** argv,
    const Options& options,
    const std::function<void()>& run) {
  try {
    app.parse(argc, argv);
    if (options.threads > 0) {
      torch::set_num_threads(options.threads);
    }
    run();
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::Error& error) {
    std::fprintf(stderr, "%s: %s (hint: --help)\n", name, error.what());
    return 1;
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what_without_backtrace());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return 1;
  }
  return 0;
}

}  // namespace finetune_text
