// SPDX-License-Identifier: Apache-2.0
// The models of adapter_parity.py, written again in C++ with the same names,
// and what its folders hold.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include <torch/torch.h>

#include "peft/layer_kinds.h"
#include "peft/safetensors.h"

namespace peft_parity {

namespace nn = torch::nn;
using torch::Tensor;

struct Model : nn::Module {
  virtual Tensor forward(const Tensor& x) = 0;
};

struct Text : Model {
  Text() {
    embedding = register_module("embedding", nn::Embedding(11, 8));
    layers = register_module("layers", nn::ModuleList());
    for (int i = 0; i < 3; ++i) {
      layers->push_back(nn::Sequential(nn::Sequential::ContainedType(
          torch::OrderedDict<std::string, nn::AnyModule>{
              {"query", nn::AnyModule(nn::Linear(8, 6))},
              {"act", nn::AnyModule(nn::Tanh())},
              {"value",
               nn::AnyModule(
                   nn::Linear(nn::LinearOptions(6, 8).bias(false)))}})));
    }
    norm = register_module("norm", nn::LayerNorm(nn::LayerNormOptions({8})));
    classifier = register_module("classifier", nn::Linear(8, 3));
  }
  Tensor forward(const Tensor& ids) override {
    auto x = embedding(ids);
    for (const auto& layer : *layers) {
      x = x + layer->as<nn::Sequential>()->forward(x);
    }
    return classifier(norm(x));
  }
  nn::Embedding embedding{nullptr};
  nn::ModuleList layers{nullptr};
  nn::LayerNorm norm{nullptr};
  nn::Linear classifier{nullptr};
};

struct Convolutions : Model {
  Convolutions() {
    c1 = register_module(
        "c1", nn::Conv1d(nn::Conv1dOptions(4, 8, 3).padding(1)));
    c2 = register_module(
        "c2", nn::Conv2d(nn::Conv2dOptions(1, 4, {3, 2}).stride(2)));
    c2g = register_module(
        "c2g", nn::Conv2d(nn::Conv2dOptions(4, 8, 1).groups(4).bias(false)));
    bn = register_module("bn", nn::BatchNorm2d(8));
    c3 = register_module("c3", nn::Conv3d(nn::Conv3dOptions(1, 2, 2)));
  }
  Tensor forward(const Tensor& input) override {
    auto x = c1(input).unsqueeze(1);
    x = bn(c2g(torch::tanh(c2(x))));
    return c3(x.unsqueeze(1));
  }
  nn::Conv1d c1{nullptr};
  nn::Conv2d c2{nullptr}, c2g{nullptr};
  nn::BatchNorm2d bn{nullptr};
  nn::Conv3d c3{nullptr};
};

struct Attention : Model {
  Attention() {
    mha = register_module(
        "mha", nn::MultiheadAttention(nn::MultiheadAttentionOptions(8, 2)));
    head = register_module("head", nn::Linear(8, 2));
  }
  Tensor forward(const Tensor& x) override {
    return head(std::get<0>(mha(x, x, x)));
  }
  nn::MultiheadAttention mha{nullptr};
  nn::Linear head{nullptr};
};

struct Tied : Model {
  Tied() {
    embed_tokens = register_module("embed_tokens", nn::Embedding(9, 6));
    body = register_module("body", nn::Linear(6, 6));
    lm_head = register_module(
        "lm_head", nn::Linear(nn::LinearOptions(6, 9).bias(false)));
    lm_head->weight = embed_tokens->weight;
  }
  Tensor forward(const Tensor& ids) override {
    return lm_head(torch::tanh(body(embed_tokens(ids))));
  }
  nn::Embedding embed_tokens{nullptr};
  nn::Linear body{nullptr}, lm_head{nullptr};
};

// One matrix, used as x w.
struct Mix : nn::Module {
  Mix() { w = register_parameter("w", torch::randn({6, 5})); }
  Tensor w;
};

struct Parameters : Model {
  Parameters() {
    peft::register_layer<Mix>(
        {{"w", &Mix::w, peft::WeightUse::linear_transposed}});
    linear = register_module("linear", nn::Linear(7, 6));
    mix = register_module("mix", std::make_shared<Mix>());
    conv = register_module(
        "conv", nn::Conv1d(nn::Conv1dOptions(5, 4, 3).padding(1)));
    both = register_module("both", nn::Bilinear(4, 3, 2));
  }
  Tensor forward(const Tensor& input) override {
    auto x = torch::tanh(linear(input)).matmul(mix->w);
    x = conv(x.transpose(1, 2)).transpose(1, 2).contiguous();
    return both(x, x.slice(2, 0, 3).contiguous());
  }
  nn::Linear linear{nullptr};
  std::shared_ptr<Mix> mix;
  nn::Conv1d conv{nullptr};
  nn::Bilinear both{nullptr};
};

inline std::shared_ptr<Model> make(const std::string& name) {
  static const std::map<std::string, std::function<std::shared_ptr<Model>()>>
      models = {
          {"text", [] { return std::make_shared<Text>(); }},
          {"convolutions", [] { return std::make_shared<Convolutions>(); }},
          {"attention", [] { return std::make_shared<Attention>(); }},
          {"tied", [] { return std::make_shared<Tied>(); }},
          {"parameters", [] { return std::make_shared<Parameters>(); }},
      };
  return models.at(name)();
}

inline void load_base(Model& model, const std::filesystem::path& file) {
  const auto weights = peft::load_safetensors(file);
  const torch::NoGradGuard no_grad;
  for (auto& p : model.named_parameters()) {
    p.value().copy_(weights[p.key()]);
  }
  for (auto& b : model.named_buffers()) {
    b.value().copy_(weights[b.key()]);
  }
}

// Where PEFT's save_pretrained puts an adapter.
inline std::filesystem::path adapter_folder(
    const std::filesystem::path& saved,
    const std::string& name) {
  return name == "default" ? saved : saved / name;
}

}  // namespace peft_parity
