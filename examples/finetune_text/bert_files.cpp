// SPDX-License-Identifier: Apache-2.0
// Reading a Hugging Face BERT: config.json, and weights by name.
#include <fstream>
#include <stdexcept>
#include <vector>

#include <nlohmann/json.hpp>

#include "bert.h"

namespace finetune_text {
namespace {

BertConfig parse(const nlohmann::json& json) {
  const auto expect = [&](const char* name, const std::string& value) {
    const auto found = json.value(name, value);
    if (found != value) {
      throw std::runtime_error(
          std::string(name) + " is \"" + found + "\", and only \"" + value +
          "\" is built");
    }
  };
  expect("model_type", "bert");
  expect("hidden_act", "gelu");
  expect("position_embedding_type", "absolute");

  BertConfig config;
  const auto read = [&](const char* name, auto& field) {
    field = json.value(name, field);
  };
  read("vocab_size", config.vocab_size);
  read("hidden_size", config.hidden_size);
  read("num_hidden_layers", config.num_hidden_layers);
  read("num_attention_heads", config.num_attention_heads);
  read("intermediate_size", config.intermediate_size);
  read("max_position_embeddings", config.max_position_embeddings);
  read("type_vocab_size", config.type_vocab_size);
  read("layer_norm_eps", config.layer_norm_eps);
  read("hidden_dropout_prob", config.hidden_dropout_prob);
  read("attention_probs_dropout_prob", config.attention_probs_dropout_prob);
  if (config.num_attention_heads < 1 ||
      config.hidden_size % config.num_attention_heads != 0) {
    throw std::runtime_error("num_attention_heads does not divide hidden_size");
  }
  return config;
}

// "a, b and 3 more"
std::string first_few(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < 3; ++i) {
    text += (i > 0 ? ", " : "") + names[i];
  }
  return names.size() <= 3
      ? text
      : text + " and " + std::to_string(names.size() - 3) + " more";
}

}  // namespace

BertConfig BertConfig::from_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) {
    throw std::runtime_error("cannot read " + path.string());
  }
  try {
    return parse(nlohmann::json::parse(file));
  } catch (const std::exception& error) {
    throw std::runtime_error(path.string() + ": " + error.what());
  }
}

void load_weights(
    torch::nn::Module& model,
    const torch::OrderedDict<std::string, torch::Tensor>& weights) {
  std::vector<std::string> missing, misshapen;
  for (const auto& parameter : model.named_parameters()) {
    const auto* weight = weights.find(parameter.key());
    if (weight == nullptr) {
      missing.push_back(parameter.key());
    } else if (weight->sizes() != parameter->sizes()) {
      misshapen.push_back(parameter.key());
    }
  }
  if (!missing.empty()) {
    throw std::runtime_error("missing weights: " + first_few(missing));
  }
  if (!misshapen.empty()) {
    throw std::runtime_error(
        "weights of another shape than the model's: " + first_few(misshapen));
  }
  const torch::NoGradGuard no_grad;
  for (auto& parameter : model.named_parameters()) {
    parameter->copy_(weights[parameter.key()]);
  }
}

}  // namespace finetune_text
