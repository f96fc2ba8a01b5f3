// SPDX-License-Identifier: Apache-2.0
// The forward functions; dropout is where transformers has it. Everything is
// registered in the order of transformers, so that parameters, and with a
// seed also random numbers, come in the same order.
#include "bert.h"

namespace finetune_text {
namespace {

namespace nn = torch::nn;

nn::LayerNorm make_layer_norm(const BertConfig& config) {
  return nn::LayerNorm(
      nn::LayerNormOptions({config.hidden_size}).eps(config.layer_norm_eps));
}

}  // namespace

BertEmbeddingsImpl::BertEmbeddingsImpl(const BertConfig& config)
    : word_embeddings(
          nn::EmbeddingOptions(config.vocab_size, config.hidden_size)
              .padding_idx(0)),
      position_embeddings(config.max_position_embeddings, config.hidden_size),
      token_type_embeddings(config.type_vocab_size, config.hidden_size),
      layer_norm(make_layer_norm(config)),
      dropout(config.hidden_dropout_prob) {
  register_module("word_embeddings", word_embeddings);
  register_module("position_embeddings", position_embeddings);
  register_module("token_type_embeddings", token_type_embeddings);
  register_module("LayerNorm", layer_norm);
  register_module("dropout", dropout);
}

torch::Tensor BertEmbeddingsImpl::forward(const torch::Tensor& input_ids) {
  const auto positions = torch::arange(input_ids.size(1), input_ids.options());
  const auto types = torch::zeros_like(input_ids);  // one text, no pair
  const auto sum = word_embeddings(input_ids) + token_type_embeddings(types) +
      position_embeddings(positions);
  return dropout(layer_norm(sum));
}

BertSelfAttentionImpl::BertSelfAttentionImpl(const BertConfig& config)
    : query(config.hidden_size, config.hidden_size),
      key(config.hidden_size, config.hidden_size),
      value(config.hidden_size, config.hidden_size),
      heads(config.num_attention_heads),
      dropout(config.attention_probs_dropout_prob) {
  register_module("query", query);
  register_module("key", key);
  register_module("value", value);
}

torch::Tensor BertSelfAttentionImpl::forward(
    const torch::Tensor& hidden,
    const torch::Tensor& mask) {
  const auto by_head = [&](const torch::Tensor& x) {  // [B, heads, L, H/heads]
    return x.unflatten(-1, {heads, -1}).transpose(1, 2);
  };
  const auto q = by_head(query(hidden));
  const auto k = by_head(key(hidden));
  const auto v = by_head(value(hidden));
  const auto mixed = torch::scaled_dot_product_attention(
      q,
      k,
      v,
      mask.defined() ? std::optional(mask) : std::nullopt,
      is_training() ? dropout : 0.0);
  return mixed.transpose(1, 2).flatten(2);
}

BertOutputImpl::BertOutputImpl(const BertConfig& config, std::int64_t inputs)
    : dense(inputs, config.hidden_size),
      layer_norm(make_layer_norm(config)),
      dropout(config.hidden_dropout_prob) {
  register_module("dense", dense);
  register_module("LayerNorm", layer_norm);
  register_module("dropout", dropout);
}

torch::Tensor BertOutputImpl::forward(
    const torch::Tensor& hidden,
    const torch::Tensor& residual) {
  return layer_norm(dropout(dense(hidden)) + residual);
}

BertAttentionImpl::BertAttentionImpl(const BertConfig& config)
    : self(config), output(config, config.hidden_size) {
  register_module("self", self);
  register_module("output", output);
}

torch::Tensor BertAttentionImpl::forward(
    const torch::Tensor& hidden,
    const torch::Tensor& mask) {
  return output(self(hidden, mask), hidden);
}

BertIntermediateImpl::BertIntermediateImpl(const BertConfig& config)
    : dense(config.hidden_size, config.intermediate_size) {
  register_module("dense", dense);
}

torch::Tensor BertIntermediateImpl::forward(const torch::Tensor& hidden) {
  return torch::gelu(dense(hidden));
}

BertLayerImpl::BertLayerImpl(const BertConfig& config)
    : attention(config),
      intermediate(config),
      output(config, config.intermediate_size) {
  register_module("attention", attention);
  register_module("intermediate", intermediate);
  register_module("output", output);
}

torch::Tensor BertLayerImpl::forward(
    const torch::Tensor& hidden,
    const torch::Tensor& mask) {
  const auto attended = attention(hidden, mask);
  return output(intermediate(attended), attended);
}

BertEncoderImpl::BertEncoderImpl(const BertConfig& config) {
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    layer->push_back(BertLayer(config));
  }
  register_module("layer", layer);
}

torch::Tensor BertEncoderImpl::forward(
    torch::Tensor hidden,
    const torch::Tensor& mask) {
  for (const auto& each : *layer) {
    hidden = each->as<BertLayer>()->forward(hidden, mask);
  }
  return hidden;
}

BertModelImpl::BertModelImpl(const BertConfig& config)
    : embeddings(config), encoder(config) {
  register_module("embeddings", embeddings);
  register_module("encoder", encoder);
}

torch::Tensor BertModelImpl::forward(
    const torch::Tensor& input_ids,
    const torch::Tensor& attention_mask) {
  torch::Tensor mask;  // needed only when some text is shorter than others
  if (!attention_mask.all().item<bool>()) {
    mask = attention_mask.to(torch::kBool).unsqueeze(1).unsqueeze(2);
  }
  return encoder(embeddings(input_ids), mask);
}

TextClassifierImpl::TextClassifierImpl(
    const BertConfig& config,
    std::int64_t classes)
    : bert(config), classifier(config.hidden_size, classes) {
  register_module("bert", bert);
  register_module("classifier", classifier);
}

torch::Tensor TextClassifierImpl::forward(
    const torch::Tensor& input_ids,
    const torch::Tensor& attention_mask) {
  const auto hidden = bert(input_ids, attention_mask);
  const auto mask = attention_mask.unsqueeze(-1).to(hidden.scalar_type());
  return classifier((hidden * mask).sum(1) / mask.sum(1));
}

}  // namespace finetune_text
