// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include <CLI/CLI.hpp>

#ifndef PEFT_DEMO_MODEL
#define PEFT_DEMO_MODEL ""  // the build may name a folder
#endif

namespace finetune_text {
namespace {

std::filesystem::path default_model() {
  const char* from_environment = std::getenv("PEFT_DEMO_MODEL");
  return from_environment != nullptr ? from_environment : PEFT_DEMO_MODEL;
}

std::string check_positive(const std::string& text) {
  double value = 0;
  const bool good = CLI::detail::lexical_cast(text, value) && value > 0;
  return good ? "" : "'" + text + "' is no number above 0";
}

std::string check_whole(const std::string& text) {
  const bool good = text.find_first_not_of("0123456789") == std::string::npos;
  return good ? "" : "'" + text + "' is no whole number from 0 on";
}

}  // namespace

void add_options(CLI::App& app, Options& options, const char* model_help) {
  options.model = default_model();
  auto& training = options.training;
  const CLI::Validator positive(check_positive, "POSITIVE");
  app.add_option(
      "--model",
      options.model,
      std::string(model_help) + "; default: $PEFT_DEMO_MODEL");
  app.add_option(
      "--data",
      options.data,
      "File of label<TAB>text lines; default: Debian's fortunes");
  app.add_option("--epochs", training.epochs, "Times through the texts")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--batch-size", training.batch_size, "Texts in a step")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--lr", training.learning_rate, "Learning rate of AdamW")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--r", options.r, "Rank of the adapter")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--output", options.output, "Folder for the adapter")
      ->capture_default_str();
  app.add_option(
      "--logits",
      options.logits,
      "Also write the logits of the test texts to this "
      "safetensors file, for check_in_python.py");
  app.add_option("--seed", training.seed, "Seed of all random numbers")
      ->check(check_whole, "")
      ->capture_default_str();
  app.add_option("--threads", options.threads, "Threads; default: all cores")
      ->check(positive);
}

void require_model(
    const std::filesystem::path& folder,
    std::initializer_list<const char*> files) {
  if (folder.empty()) {
    throw std::runtime_error(
        "no model: give --model DIR or set PEFT_DEMO_MODEL");
  }
  for (const char* name : files) {
    if (!std::filesystem::is_regular_file(folder / name)) {
      throw std::runtime_error(
          "no " + std::string(name) + " in the model folder " +
          folder.string() + " (hint: --model DIR)");
    }
  }
}

}  // namespace finetune_text
