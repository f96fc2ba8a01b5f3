// SPDX-License-Identifier: Apache-2.0
// finetune_text: fine-tunes a pretrained text encoder with LoRA, in C++ alone.
//
// A BERT written in plain libtorch (bert.h), the weights of all-MiniLM-L6-v2
// from its safetensors file, six kinds of Debian's fortunes to tell apart. The
// adapter goes into a folder that Python PEFT loads.
#include <cstdio>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>

#include <CLI/CLI.hpp>
#include <peft/peft.h>
#include <torch/torch.h>

#include "bert.h"
#include "options.h"
#include "progress.h"
#include "report.h"
#include "text_data.h"
#include "training.h"
#include "word_piece.h"

namespace {

using namespace finetune_text;

constexpr std::size_t max_length = 64;  // tokens of a text that are read

// The pretrained encoder under a classifier that knows nothing yet.
TextClassifier load_model(
    const std::filesystem::path& folder,
    std::int64_t classes) {
  TextClassifier model(BertConfig::from_file(folder / "config.json"), classes);
  load_weights(
      *model->bert, peft::load_safetensors(folder / "model.safetensors"));
  return model;
}

void check_vocabulary(const WordPiece& tokenizer, const TextClassifier& model) {
  const auto rows = model->bert->embeddings->word_embeddings->weight.size(0);
  if (static_cast<std::int64_t>(tokenizer.size()) > rows) {
    throw std::runtime_error(
        "vocab.txt has " + std::to_string(tokenizer.size()) +
        " tokens, the model only " + std::to_string(rows));
  }
}

peft::Adapters add_adapter(TextClassifier& model, std::int64_t r) {
  peft::LoraConfig config;
  config.r = r;
  config.lora_alpha = 16;
  config.lora_dropout = 0.1;
  config.target_modules = {"query", "value"};
  config.modules_to_save = {"classifier"};
  return peft::inject_adapter_in_model(config, *model);
}

void save(TextClassifier& model, const Options& options, const TextData& data) {
  peft::save_pretrained(*model, options.output);
  std::ofstream labels(options.output / "labels.txt");
  for (const auto& label : data.labels) {
    labels << label << '\n';
  }
  std::printf(
      "saved      %s: %s beside a model of %s\n",
      options.output.c_str(),
      file_size_text(options.output / "adapter_model.safetensors").c_str(),
      file_size_text(options.model / "model.safetensors").c_str());
}

// Throws unless the saved adapter gives a fresh model the same `logits`.
void check_saved(
    const Options& options,
    const TextData& data,
    const TextSet& test_set,
    const torch::Tensor& logits) {
  auto fresh =
      load_model(options.model, static_cast<std::int64_t>(data.labels.size()));
  peft::load_adapter(*fresh, options.output);
  if (!torch::equal(predict(fresh, test_set), logits)) {
    throw std::runtime_error("the saved adapter gives other logits");
  }
  std::puts("reloaded   into a fresh model: the same logits to the bit");
}

void run(const Options& options) {
  require_model(options.model);
  std::filesystem::create_directories(options.output);  // fail early
  const auto data =
      options.data.empty() ? load_fortunes() : load_tsv(options.data);
  const WordPiece tokenizer(options.model / "vocab.txt");
  const TextSet train_set(data.train, tokenizer, max_length);
  const TextSet test_set(data.test, tokenizer, max_length);
  std::printf(
      "data       %zu labels, %zu texts to train, %zu to test\n",
      data.labels.size(),
      data.train.size(),
      data.test.size());

  auto model =
      load_model(options.model, static_cast<std::int64_t>(data.labels.size()));
  check_vocabulary(tokenizer, model);
  torch::manual_seed(options.training.seed);
  model->classifier->reset_parameters();
  auto adapters = add_adapter(model, options.r);
  std::printf("adapter    %s\n", adapters.status().to_string().c_str());
  std::printf(
      "accuracy   %.3f before\n", accuracy(predict(model, test_set), test_set));

  Progress progress(
      step_count(train_set, options.training),
      train_set.size() * options.training.epochs);
  train(
      model,
      adapters.trainable_parameters(),
      train_set,
      options.training,
      [&](double loss) { progress.step(loss); });
  progress.finish();

  const auto logits = predict(model, test_set);
  std::printf("accuracy   %.3f after\n", accuracy(logits, test_set));
  save(model, options, data);
  check_saved(options, data, test_set, logits);
  if (!options.logits.empty()) {
    peft::StateDict tensors;
    tensors.insert("logits", logits);
    peft::save_safetensors(tensors, options.logits);
  }
  std::printf(
      "\nIn Python:\n\n%s",
      python_snippet(options.model, options.output, logits.size(1)).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Fine-tunes a pretrained text encoder with LoRA.");
  add_options(app, options);
  try {
    app.parse(argc, argv);
    if (options.threads > 0) {
      torch::set_num_threads(options.threads);
    }
    run(options);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::Error& error) {
    std::fprintf(stderr, "finetune_text: %s (hint: --help)\n", error.what());
    return 1;
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "finetune_text: %s\n", error.what_without_backtrace());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "finetune_text: %s\n", error.what());
    return 1;
  }
  return 0;
}
