// SPDX-License-Identifier: Apache-2.0
// finetune_exported: fine-tunes a model that no C++ was written for.
//
// export_encoder.py has saved the model as a .pt2 file, in training mode. It
// is loaded, adapted and trained here as finetune_text trains its own BERT.
// Out come an adapter that Python PEFT loads into the Python model, and a .pt2
// with the adapter merged into the weights.
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>

#include <CLI/CLI.hpp>
#include <peft/peft.h>
#include <torch/torch.h>

#include "options.h"
#include "report.h"
#include "run.h"

namespace {

using namespace finetune_text;

struct ExportedOptions : Options {
  std::filesystem::path program;
  std::filesystem::path merged = "merged.pt2";
};

TextModel text_model(peft::ExportedProgram program) {
  return {
      [program](const Batch& batch) {
        return program.forward({batch.input_ids, batch.attention_mask}).at(0);
      },
      [program](bool on) mutable { program.train(on); }};
}

torch::Tensor weight(
    const peft::ExportedProgram& program,
    const std::string& name) {
  const auto parameters = program.named_parameters();
  const auto* found = parameters.find(name);
  if (found == nullptr) {
    throw std::runtime_error(
        "the program has no " + name +
        " (hint: export_encoder.py writes one that has)");
  }
  return *found;
}

// Throws unless the program goes with the tokenizer and with the labels.
void check_program(const peft::ExportedProgram& program, const Texts& texts) {
  check_vocabulary(
      texts.tokenizer,
      weight(program, "bert.embeddings.word_embeddings.weight"));
  const auto labels = std::to_string(texts.labels.size());
  const auto classes =
      std::to_string(weight(program, "classifier.weight").size(0));
  if (classes != labels) {
    throw std::runtime_error(
        "the data has " + labels + " labels, the program's classifier " +
        classes + " (hint: export_encoder.py --labels " + labels + ")");
  }
}

peft::Adapters add_adapter(peft::ExportedProgram& program, std::int64_t r) {
  peft::LoraConfig config;
  config.r = r;
  config.lora_alpha = 16;
  config.lora_dropout = 0.1;
  config.target_modules = {"query", "value"};
  config.modules_to_save = {"classifier"};
  return peft::inject_adapter_in_model(config, program);
}

void save(
    peft::ExportedProgram& program,
    const ExportedOptions& options,
    const Texts& texts) {
  peft::save_pretrained(program, options.output);
  save_labels(texts.labels, options.output);
  std::printf(
      "saved      %s: %s beside a program of %s\n",
      options.output.c_str(),
      file_size_text(options.output / "adapter_model.safetensors").c_str(),
      file_size_text(options.program).c_str());
}

// Throws unless the saved adapter gives a fresh program the same `logits`.
void check_saved(
    const ExportedOptions& options,
    const Texts& texts,
    const torch::Tensor& logits) {
  auto fresh = peft::ExportedProgram::load(options.program);
  peft::load_adapter(fresh, options.output);
  check_reloaded(text_model(fresh), texts, logits);
  std::puts("reloaded   into a fresh program: the same logits to the bit");
}

// Writes the program with the adapter in its weights, which gives the same
// `logits` but for the rounding of sums.
void merge(
    const peft::ExportedProgram& program,
    const ExportedOptions& options,
    const Texts& texts,
    const torch::Tensor& logits) {
  program.save_merged(options.merged);
  const auto merged = peft::ExportedProgram::load(options.merged);
  const auto difference = (predict(text_model(merged), texts.test) - logits)
                              .abs()
                              .max()
                              .item<double>();
  if (!(difference <= 1e-4)) {
    throw std::runtime_error("the merged program gives other logits");
  }
  std::printf(
      "merged     %s: %s; largest difference of a logit %.1e\n",
      options.merged.c_str(),
      file_size_text(options.merged).c_str(),
      difference);
}

void run(const ExportedOptions& options) {
  require_model(options.model, {"vocab.txt"});
  std::filesystem::create_directories(options.output);  // fail early
  auto program = peft::ExportedProgram::load(options.program);
  const Texts texts(options);
  check_program(program, texts);
  torch::manual_seed(options.training.seed);
  auto adapters = add_adapter(program, options.r);
  std::printf("adapter    %s\n", adapters.status().to_string().c_str());

  const auto logits = fine_tune(
      text_model(program),
      adapters.trainable_parameters(),
      texts,
      options.training);
  save(program, options, texts);
  check_saved(options, texts, logits);
  merge(program, options, texts, logits);
  save_logits(logits, options.logits);
  std::printf(
      "\nIn Python:\n\n%s",
      python_snippet(options.model, options.output, logits.size(1)).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  ExportedOptions options;
  options.output = "finetune_exported_adapter";
  CLI::App app("Fine-tunes an exported text encoder with LoRA.");
  app.add_option(
         "program", options.program, "The .pt2 file of export_encoder.py")
      ->required();
  add_options(app, options, "Folder with the encoder's vocab.txt");
  app.add_option(
         "--merged",
         options.merged,
         "The .pt2 file to write with the adapter in the weights")
      ->capture_default_str();
  app.footer("Example:\n  finetune_exported encoder.pt2 --output my-adapter");
  return run_main(
      "finetune_exported", app, argc, argv, options, [&] { run(options); });
}
