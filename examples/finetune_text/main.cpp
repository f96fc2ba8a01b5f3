// SPDX-License-Identifier: Apache-2.0
// finetune_text: fine-tunes a pretrained text encoder with LoRA, in C++ alone.
//
// A BERT written in plain libtorch (bert.h), the weights of all-MiniLM-L6-v2
// from its safetensors file, six kinds of Debian's fortunes to tell apart. The
// adapter goes into a folder that Python PEFT loads.
#include <cstdio>
#include <filesystem>

#include <CLI/CLI.hpp>
#include <peft/peft.h>
#include <torch/torch.h>

#include "bert.h"
#include "options.h"
#include "report.h"
#include "run.h"

namespace {

using namespace finetune_text;

// The pretrained encoder under a classifier that knows nothing yet.
TextClassifier load_model(
    const std::filesystem::path& folder,
    std::size_t classes) {
  TextClassifier model(
      BertConfig::from_file(folder / "config.json"),
      static_cast<std::int64_t>(classes));
  load_weights(
      *model->bert, peft::load_safetensors(folder / "model.safetensors"));
  return model;
}

TextModel text_model(TextClassifier model) {
  return {
      [model](const Batch& batch) mutable {
        return model(batch.input_ids, batch.attention_mask);
      },
      [model](bool on) mutable { model->train(on); }};
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

void save(TextClassifier& model, const Options& options, const Texts& texts) {
  peft::save_pretrained(*model, options.output);
  save_labels(texts.labels, options.output);
  std::printf(
      "saved      %s: %s beside a model of %s\n",
      options.output.c_str(),
      file_size_text(options.output / "adapter_model.safetensors").c_str(),
      file_size_text(options.model / "model.safetensors").c_str());
}

// Throws unless the saved adapter gives a fresh model the same `logits`.
void check_saved(
    const Options& options,
    const Texts& texts,
    const torch::Tensor& logits) {
  auto fresh = load_model(options.model, texts.labels.size());
  peft::load_adapter(*fresh, options.output);
  check_reloaded(text_model(fresh), texts, logits);
  std::puts("reloaded   into a fresh model: the same logits to the bit");
}

void run(const Options& options) {
  require_model(
      options.model, {"config.json", "model.safetensors", "vocab.txt"});
  std::filesystem::create_directories(options.output);  // fail early
  const Texts texts(options);

  auto model = load_model(options.model, texts.labels.size());
  check_vocabulary(
      texts.tokenizer, model->bert->embeddings->word_embeddings->weight);
  torch::manual_seed(options.training.seed);
  model->classifier->reset_parameters();
  auto adapters = add_adapter(model, options.r);
  std::printf("adapter    %s\n", adapters.status().to_string().c_str());

  const auto logits = fine_tune(
      text_model(model),
      adapters.trainable_parameters(),
      texts,
      options.training);
  save(model, options, texts);
  check_saved(options, texts, logits);
  save_logits(logits, options.logits);
  std::printf(
      "\nIn Python:\n\n%s",
      python_snippet(options.model, options.output, logits.size(1)).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  options.output = "finetune_text_adapter";
  CLI::App app("Fine-tunes a pretrained text encoder with LoRA.");
  add_options(
      app,
      options,
      "Folder with config.json, model.safetensors and vocab.txt of a BERT");
  app.footer("Example:\n  finetune_text --epochs 2 --output my-adapter");
  return run_main(
      "finetune_text", app, argc, argv, options, [&] { run(options); });
}
