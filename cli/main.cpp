// SPDX-License-Identifier: Apache-2.0
// peft: looks at adapter folders from a shell. It needs no model.
//
// Exit codes: 0 fine, 1 something went wrong, 2 wrong usage.
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <CLI/CLI.hpp>
#include <peft/adalora_config.h>
#include <peft/adapter_folder.h>
#include <peft/ia3_config.h>
#include <peft/lora_config.h>
#include <peft/version.h>

namespace {

std::string describe(const peft::ModuleChoice& choice) {
  if (choice.is_none()) {
    return "none";
  }
  if (choice.is_pattern()) {
    return "pattern " + choice.pattern();
  }
  std::string text;
  for (const auto& name : choice.names()) {
    text += (text.empty() ? "" : ", ") + name;
  }
  return text;
}

// What is particular to a method, in one line.
std::string describe(const peft::AdapterConfig& config) {
  std::ostringstream text;
  if (const auto* ia3 = dynamic_cast<const peft::IA3Config*>(&config)) {
    text << "feed-forward " << describe(ia3->feedforward_modules);
    return text.str();
  }
  const auto* lora = dynamic_cast<const peft::LoraConfig*>(&config);
  if (!lora) {
    return "";
  }
  if (const auto* ada = dynamic_cast<const peft::AdaLoraConfig*>(&config)) {
    text << "rank " << ada->init_r << " to " << ada->target_r;
  } else {
    text << "rank " << lora->r << (lora->use_rslora ? ", rslora" : "")
         << (lora->use_dora ? ", dora" : "");
  }
  text << ", alpha " << lora->lora_alpha << ", dropout " << lora->lora_dropout
       << ", bias " << lora->bias;
  if (lora->init_lora_weights.is_named()) {
    text << ", started as " << lora->init_lora_weights.scheme();
  }
  return text.str();
}

void print_config(const peft::AdapterConfig& config) {
  std::printf("method   %s\n", config.peft_type().c_str());
  std::printf("options  %s\n", describe(config).c_str());
  std::printf("targets  %s\n", describe(config.target_modules).c_str());
  std::printf(
      "base     %s\n",
      config.base_model_name_or_path.value_or("not named").c_str());
}

// One line a tensor; false when one holds NaN or infinity.
bool print_tensors(const peft::StateDict& tensors) {
  bool finite = true;
  std::int64_t numbers = 0;
  for (const auto& item : tensors) {
    const auto& tensor = item.value();
    const bool is_finite = at::isfinite(tensor).all().item<bool>();
    finite = finite && is_finite;
    numbers += tensor.numel();
    std::ostringstream sizes;
    sizes << tensor.sizes();
    std::printf(
        "  %s  %s %s%s\n",
        item.key().c_str(),
        sizes.str().c_str(),
        c10::toString(tensor.scalar_type()),
        is_finite ? "" : "  holds NaN or infinity");
  }
  std::printf(
      "tensors  %zu, %lld numbers\n",
      tensors.size(),
      static_cast<long long>(numbers));
  return finite;
}

int inspect(const std::filesystem::path& folder) {
  print_config(*peft::load_adapter_config(folder));
  return print_tensors(peft::load_peft_weights(folder)) ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Looks at adapters.", "peft");
  app.set_version_flag("--version", "peft " PEFT_VERSION);
  app.require_subcommand(1);
  app.footer("example: peft inspect my_adapter");
  std::string folder;
  auto* command = app.add_subcommand(
      "inspect", "Shows an adapter folder: config, tensors, NaNs");
  command->add_option("FOLDER", folder, "holds adapter_config.json")
      ->required();
  try {
    app.parse(argc, argv);
    return inspect(folder);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "peft: %s\n", error.what());
    return 1;
  }
}
