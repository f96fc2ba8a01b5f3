// SPDX-License-Identifier: Apache-2.0
// BERT in plain libtorch, as anyone would write it, and a text classifier on
// top. Module names are Hugging Face's, so its safetensors files fit as they
// are. Nothing here knows that adapters exist.
//
// Shapes: B texts, L tokens, H hidden_size, C classes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <torch/torch.h>

namespace finetune_text {

/// The part of a Hugging Face config.json that the model needs.
struct BertConfig {
  std::int64_t vocab_size = 30522;
  std::int64_t hidden_size = 768;
  std::int64_t num_hidden_layers = 12;
  std::int64_t num_attention_heads = 12;
  std::int64_t intermediate_size = 3072;
  std::int64_t max_position_embeddings = 512;
  std::int64_t type_vocab_size = 2;
  double layer_norm_eps = 1e-12;
  double hidden_dropout_prob = 0.1;
  double attention_probs_dropout_prob = 0.1;

  /// Throws std::runtime_error when the file cannot be read or describes a
  /// model that is not this one.
  static BertConfig from_file(const std::filesystem::path& path);
};

struct BertEmbeddingsImpl : torch::nn::Module {
  explicit BertEmbeddingsImpl(const BertConfig& config);
  /// input_ids [B, L] -> [B, L, H]
  torch::Tensor forward(const torch::Tensor& input_ids);

  torch::nn::Embedding word_embeddings, position_embeddings,
      token_type_embeddings;
  torch::nn::LayerNorm layer_norm;
  torch::nn::Dropout dropout;
};
TORCH_MODULE(BertEmbeddings);

struct BertSelfAttentionImpl : torch::nn::Module {
  explicit BertSelfAttentionImpl(const BertConfig& config);
  /// hidden [B, L, H], mask [B, 1, 1, L], true where there is text, or
  /// undefined when there is text everywhere -> [B, L, H]
  torch::Tensor forward(const torch::Tensor& hidden, const torch::Tensor& mask);

  torch::nn::Linear query, key, value;
  std::int64_t heads;
  double dropout;
};
TORCH_MODULE(BertSelfAttention);

/// dense, dropout, residual connection, layer norm: ends attention and layer.
struct BertOutputImpl : torch::nn::Module {
  BertOutputImpl(const BertConfig& config, std::int64_t inputs);
  torch::Tensor forward(
      const torch::Tensor& hidden,
      const torch::Tensor& residual);

  torch::nn::Linear dense;
  torch::nn::LayerNorm layer_norm;
  torch::nn::Dropout dropout;
};
TORCH_MODULE(BertOutput);

struct BertAttentionImpl : torch::nn::Module {
  explicit BertAttentionImpl(const BertConfig& config);
  torch::Tensor forward(const torch::Tensor& hidden, const torch::Tensor& mask);

  BertSelfAttention self;
  BertOutput output;
};
TORCH_MODULE(BertAttention);

struct BertIntermediateImpl : torch::nn::Module {
  explicit BertIntermediateImpl(const BertConfig& config);
  torch::Tensor forward(const torch::Tensor& hidden);

  torch::nn::Linear dense;
};
TORCH_MODULE(BertIntermediate);

struct BertLayerImpl : torch::nn::Module {
  explicit BertLayerImpl(const BertConfig& config);
  torch::Tensor forward(const torch::Tensor& hidden, const torch::Tensor& mask);

  BertAttention attention;
  BertIntermediate intermediate;
  BertOutput output;
};
TORCH_MODULE(BertLayer);

struct BertEncoderImpl : torch::nn::Module {
  explicit BertEncoderImpl(const BertConfig& config);
  torch::Tensor forward(torch::Tensor hidden, const torch::Tensor& mask);

  torch::nn::ModuleList layer;
};
TORCH_MODULE(BertEncoder);

/// transformers' BertModel with add_pooling_layer=False.
struct BertModelImpl : torch::nn::Module {
  explicit BertModelImpl(const BertConfig& config);
  /// input_ids and attention_mask [B, L] -> last hidden state [B, L, H]
  torch::Tensor forward(
      const torch::Tensor& input_ids,
      const torch::Tensor& attention_mask);

  BertEmbeddings embeddings;
  BertEncoder encoder;
};
TORCH_MODULE(BertModel);

/// The mean of a text's hidden states, then one linear layer. The paths are
/// `bert.` + those of Hugging Face, and `classifier`.
struct TextClassifierImpl : torch::nn::Module {
  TextClassifierImpl(const BertConfig& config, std::int64_t classes);
  /// input_ids and attention_mask [B, L] -> logits [B, C]
  torch::Tensor forward(
      const torch::Tensor& input_ids,
      const torch::Tensor& attention_mask);

  BertModel bert;
  torch::nn::Linear classifier;
};
TORCH_MODULE(TextClassifier);

/// Copies `weights` into the parameters of the same names. Throws
/// std::runtime_error, naming them, when some are missing or of another shape;
/// weights for which the model has no parameter are left out.
void load_weights(
    torch::nn::Module& model,
    const torch::OrderedDict<std::string, torch::Tensor>& weights);

}  // namespace finetune_text
