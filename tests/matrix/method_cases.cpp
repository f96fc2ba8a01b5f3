// SPDX-License-Identifier: Apache-2.0
#include "matrix/method_cases.h"

namespace peft_test {
namespace {

using Parameters = std::vector<Tensor>;

constexpr int64_t rank = 3;
constexpr double strength = 1.5;  // alpha / r with alpha = 4.5

// [outputs, everything an output reads].
Tensor rows(const LayerCase& layer, const Tensor& weight) {
  return layer.form == Form::table ? weight.t() : weight.flatten(1);
}

// Such rows in the shape of the layer's weight.
Tensor
shaped(const LayerCase& layer, const Tensor& matrix, const Tensor& like) {
  return layer.form == Form::table ? matrix.t() : matrix.view(like.sizes());
}

Tensor product(const Tensor& A, const Tensor& B) {
  return B.flatten(1).mm(A.flatten(1));
}

// The best approximation of rank r, which is unique.
Tensor truncated(const Tensor& matrix, int64_t r) {
  const auto [U, S, V] = torch::linalg_svd(matrix, false);
  return (U.slice(1, 0, r) * S.slice(0, 0, r)).mm(V.slice(0, 0, r));
}

// A vector over the outputs or the inputs of a matrix or kernel.
Tensor over(const Tensor& vector, const Tensor& weight, int64_t dimension) {
  std::vector<int64_t> shape(static_cast<std::size_t>(weight.dim()), 1);
  shape[static_cast<std::size_t>(dimension)] = -1;
  return vector.reshape(shape);
}

template <class Config>
std::unique_ptr<Config> on_layer() {
  auto config = std::make_unique<Config>();
  config->target_modules = {"layer"};
  return config;
}

std::unique_ptr<peft::LoraConfig> lora_config() {
  auto config = on_layer<peft::LoraConfig>();
  config->r = rank;
  config->lora_alpha = 4.5;
  return config;
}

bool everywhere(const LayerCase&) {
  return true;
}

bool not_on_tables(const LayerCase& layer) {
  return layer.form != Form::table;
}

MethodCase lora() {
  return {
      "lora",
      lora_config,
      [](const LayerCase& layer,
         const Weights& now,
         const Weights&,
         const Parameters& p,
         double scale) -> Weights {
        const Tensor delta = product(p[0], p[1]) * (strength * scale);
        return {now.weight + shaped(layer, delta, now.weight), now.bias};
      },
      everywhere};
}

MethodCase lora_bias() {
  return {
      "lora_bias",
      [] {
        auto config = lora_config();
        config->lora_bias = true;
        return config;
      },
      [](const LayerCase& layer,
         const Weights& now,
         const Weights&,
         const Parameters& p,
         double scale) -> Weights {
        const double s = strength * scale;
        const Tensor bias = p[2] * s;
        return {
            now.weight + shaped(layer, product(p[0], p[1]) * s, now.weight),
            now.bias.defined() ? now.bias + bias : bias};
      },
      not_on_tables};
}

// W' = (m / n) (W + s B A), n = ||W0 + s B A|| a constant.
MethodCase dora() {
  return {
      "dora",
      [] {
        auto config = lora_config();
        config->use_dora = true;
        return config;
      },
      [](const LayerCase& layer,
         const Weights& now,
         const Weights& base,
         const Parameters& p,
         double scale) -> Weights {
        const Tensor delta = product(p[0], p[1]) * (strength * scale);
        const Tensor n =
            (rows(layer, base.weight) + delta).norm(2, 1, true).detach();
        const Tensor gain = p[2].reshape({-1, 1}) / n;
        return {
            shaped(layer, (rows(layer, now.weight) + delta) * gain, now.weight),
            now.bias};
      },
      everywhere};
}

// The base gives up its largest directions, which A and B hold.
MethodCase pissa() {
  return {
      "pissa",
      [] {
        auto config = lora_config();
        config->init_lora_weights = "pissa";
        return config;
      },
      [](const LayerCase& layer,
         const Weights& now,
         const Weights& base,
         const Parameters& p,
         double scale) -> Weights {
        const Tensor taken = truncated(rows(layer, base.weight), rank);
        const Tensor change = (product(p[0], p[1]) * strength - taken) * scale;
        return {now.weight + shaped(layer, change, now.weight), now.bias};
      },
      not_on_tables,
      /*rounds_the_weight=*/true};
}

// B is the weight's smallest left directions and stays, A starts at zero.
MethodCase mica() {
  auto mica = lora();
  mica.name = "mica";
  mica.config = [] {
    auto config = lora_config();
    config->init_lora_weights = "mica";
    return config;
  };
  return mica;
}

// As pissa, by the first columns of the QR decomposition.
MethodCase olora() {
  return {
      "olora",
      [] {
        auto config = lora_config();
        config->init_lora_weights = "olora";
        return config;
      },
      [](const LayerCase& layer,
         const Weights& now,
         const Weights& base,
         const Parameters& p,
         double scale) -> Weights {
        const auto [Q, R] = torch::linalg_qr(rows(layer, base.weight));
        const Tensor taken = Q.slice(1, 0, rank).mm(R.slice(0, 0, rank));
        const Tensor change =
            (product(p[0], p[1]) - taken) * (strength * scale);
        return {now.weight + shaped(layer, change, now.weight), now.bias};
      },
      not_on_tables,
      /*rounds_the_weight=*/true};
}

MethodCase ia3() {
  return {
      "ia3",
      [] {
        auto config = on_layer<peft::IA3Config>();
        config->feedforward_modules = std::vector<std::string>();
        return config;
      },
      [](const LayerCase&,
         const Weights& now,
         const Weights&,
         const Parameters& p,
         double scale) -> Weights {
        const Tensor l = (p[0].flatten() - 1) * scale + 1;
        return {
            now.weight * over(l, now.weight, 0),
            now.bias.defined() ? now.bias * l : now.bias};
      },
      not_on_tables};
}

MethodCase ia3_feedforward() {
  return {
      "ia3_feedforward",
      [] {
        auto config = on_layer<peft::IA3Config>();
        config->feedforward_modules = {"layer"};
        return config;
      },
      [](const LayerCase&,
         const Weights& now,
         const Weights&,
         const Parameters& p,
         double scale) -> Weights {
        const Tensor l = (p[0].flatten() - 1) * scale + 1;
        return {now.weight * over(l, now.weight, 1), now.bias};
      },
      not_on_tables};
}

MethodCase adalora() {
  return {
      "adalora",
      [] {
        auto config = on_layer<peft::AdaLoraConfig>();
        config->init_r = rank;
        config->target_r = 2;
        config->lora_alpha = 4.5;
        config->total_step = 10;
        return config;
      },
      [](const LayerCase& layer,
         const Weights& now,
         const Weights&,
         const Parameters& p,
         double scale) -> Weights {
        const double s = 4.5 / (rank + 1e-5) * scale;
        const Tensor delta = p[2].mm(p[0] * p[1]) * s;
        return {now.weight + shaped(layer, delta, now.weight), now.bias};
      },
      not_on_tables};
}

}  // namespace

void PrintTo(const MethodCase& method, std::ostream* out) {
  *out << method.name;
}

std::vector<MethodCase> method_cases() {
  return {
      lora(),
      lora_bias(),
      dora(),
      pissa(),
      olora(),
      mica(),
      ia3(),
      ia3_feedforward(),
      adalora()};
}

}  // namespace peft_test
