// SPDX-License-Identifier: Apache-2.0
#include "matrix/method_cases.h"

namespace peft_test {
namespace {

using Parameters = std::vector<Tensor>;

constexpr int64_t rank = 3;
constexpr double strength = 1.5;  // alpha / r with alpha = 4.5

// [outputs, everything an output reads].
Tensor rows(const WeightCase& of, const Tensor& weight) {
  const bool is_turned = of.form == Form::table || of.inputs_first;
  return is_turned ? weight.t() : weight.flatten(1);
}

// Such rows in the shape of the weight; of a stack, its matrices.
Tensor shaped(const WeightCase& of, const Tensor& matrix, const Tensor& like) {
  if (of.form == Form::stack) {
    return of.inputs_first ? matrix.transpose(1, 2) : matrix;
  }
  const bool is_turned = of.form == Form::table || of.inputs_first;
  return is_turned ? matrix.t() : matrix.view(like.sizes());
}

// B A. PEFT's convolution in groups multiplies with each share of B's outputs
// its own share of the ranks; a stack's ranks are those of its matrices, in A
// one matrix after the other, in B one rank after the other.
Tensor product(const WeightCase& of, const Tensor& A, const Tensor& B) {
  std::vector<Tensor> parts;
  if (of.form == Form::stack) {
    const int64_t count = A.size(0) / rank;
    for (int64_t i = 0; i < count; ++i) {
      parts.push_back(B.slice(1, i, B.size(1), count)
                          .mm(A.slice(0, i * rank, (i + 1) * rank)));
    }
    return torch::stack(parts);
  }
  const auto a = A.flatten(1).chunk(of.groups);
  const auto b = B.flatten(1).chunk(of.groups);
  for (std::size_t g = 0; g < a.size(); ++g) {
    parts.push_back(b[g].mm(a[g]));
  }
  return torch::cat(parts);
}

// The best approximation of rank r, which is unique.
Tensor truncated(const Tensor& matrix, int64_t r) {
  const auto [U, S, V] = torch::linalg_svd(matrix, false);
  return (U.slice(1, 0, r) * S.slice(0, 0, r)).mm(V.slice(0, 0, r));
}

// A vector over the outputs or the inputs of a matrix or kernel.
Tensor over_dimension(const Tensor& vector, const Tensor& weight, bool first) {
  std::vector<int64_t> shape(static_cast<std::size_t>(weight.dim()), 1);
  shape[first ? 0 : 1] = -1;
  return vector.reshape(shape);
}

Tensor
over_outputs(const WeightCase& of, const Tensor& vector, const Tensor& weight) {
  return over_dimension(vector, weight, !of.inputs_first);
}

Tensor
over_inputs(const WeightCase& of, const Tensor& vector, const Tensor& weight) {
  return over_dimension(vector, weight, of.inputs_first);
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

bool everywhere(const WeightCase&) {
  return true;
}

bool not_on_tables(const WeightCase& of) {
  return of.form != Form::table;
}

bool is_one_matrix(const WeightCase& of) {
  return of.form != Form::stack && of.groups == 1;
}

bool has_an_operator(const WeightCase& of) {
  return !of.bare;
}

template <class... Conditions>
auto all_of(Conditions... conditions) {
  return [=](const WeightCase& of) { return (conditions(of) && ...); };
}

MethodCase lora() {
  return {
      "lora",
      lora_config,
      [](const WeightCase& of,
         const Weights& now,
         const Weights&,
         const Parameters& p,
         double scale) -> Weights {
        const Tensor delta = product(of, p[0], p[1]) * (strength * scale);
        return {now.weight + shaped(of, delta, now.weight), now.bias};
      },
      everywhere,
      /*rounds_the_weight=*/false,
      /*mixes_groups=*/true};
}

MethodCase lora_bias() {
  return {
      "lora_bias",
      [] {
        auto config = lora_config();
        config->lora_bias = true;
        return config;
      },
      [](const WeightCase& of,
         const Weights& now,
         const Weights&,
         const Parameters& p,
         double scale) -> Weights {
        const double s = strength * scale;
        const Tensor bias = p[2] * s;
        return {
            now.weight + shaped(of, product(of, p[0], p[1]) * s, now.weight),
            now.bias.defined() ? now.bias + bias : bias};
      },
      all_of(not_on_tables, has_an_operator),
      /*rounds_the_weight=*/false,
      /*mixes_groups=*/true};
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
      [](const WeightCase& of,
         const Weights& now,
         const Weights& base,
         const Parameters& p,
         double scale) -> Weights {
        const Tensor delta = product(of, p[0], p[1]) * (strength * scale);
        const Tensor n =
            (rows(of, base.weight) + delta).norm(2, 1, true).detach();
        const Tensor gain = p[2].reshape({-1, 1}) / n;
        return {
            shaped(of, (rows(of, now.weight) + delta) * gain, now.weight),
            now.bias};
      },
      all_of(is_one_matrix, has_an_operator)};
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
      [](const WeightCase& of,
         const Weights& now,
         const Weights& base,
         const Parameters& p,
         double scale) -> Weights {
        const Tensor taken = truncated(rows(of, base.weight), rank);
        const Tensor change =
            (product(of, p[0], p[1]) * strength - taken) * scale;
        return {now.weight + shaped(of, change, now.weight), now.bias};
      },
      all_of(not_on_tables, is_one_matrix),
      /*rounds_the_weight=*/true};
}

// B is the weight's smallest left directions and stays, A starts at zero.
MethodCase mica() {
  auto mica = lora();
  mica.name = "mica";
  mica.fits = is_one_matrix;
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
      [](const WeightCase& of,
         const Weights& now,
         const Weights& base,
         const Parameters& p,
         double scale) -> Weights {
        const auto [Q, R] = torch::linalg_qr(rows(of, base.weight));
        const Tensor taken = Q.slice(1, 0, rank).mm(R.slice(0, 0, rank));
        const Tensor change =
            (product(of, p[0], p[1]) - taken) * (strength * scale);
        return {now.weight + shaped(of, change, now.weight), now.bias};
      },
      all_of(not_on_tables, is_one_matrix),
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
      [](const WeightCase& of,
         const Weights& now,
         const Weights&,
         const Parameters& p,
         double scale) -> Weights {
        const Tensor l = (p[0].flatten() - 1) * scale + 1;
        return {
            now.weight * over_outputs(of, l, now.weight),
            now.bias.defined() ? now.bias * l : now.bias};
      },
      all_of(not_on_tables, has_an_operator)};
}

MethodCase ia3_feedforward() {
  return {
      "ia3_feedforward",
      [] {
        auto config = on_layer<peft::IA3Config>();
        config->feedforward_modules = {"layer"};
        return config;
      },
      [](const WeightCase& of,
         const Weights& now,
         const Weights&,
         const Parameters& p,
         double scale) -> Weights {
        const Tensor l = (p[0].flatten() - 1) * scale + 1;
        return {now.weight * over_inputs(of, l, now.weight), now.bias};
      },
      all_of(not_on_tables, has_an_operator)};
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
      [](const WeightCase& of,
         const Weights& now,
         const Weights&,
         const Parameters& p,
         double scale) -> Weights {
        const double s = 4.5 / (rank + 1e-5) * scale;
        const Tensor delta = p[2].mm(p[0] * p[1]) * s;
        return {now.weight + shaped(of, delta, now.weight), now.bias};
      },
      all_of(not_on_tables, is_one_matrix)};
}

}  // namespace

Tensor in_one_group(const Tensor& kernel, int64_t groups) {
  const auto blocks = kernel.chunk(groups);
  std::vector<Tensor> whole;
  for (std::size_t g = 0; g < blocks.size(); ++g) {
    std::vector<Tensor> row(blocks.size(), torch::zeros_like(blocks[g]));
    row[g] = blocks[g];
    whole.push_back(torch::cat(row, 1));
  }
  return torch::cat(whole);
}

Tensor in_groups(const Tensor& kernel, int64_t groups) {
  std::vector<Tensor> blocks;
  for (const Tensor& row : kernel.chunk(groups)) {
    const auto g = blocks.size();
    blocks.push_back(row.chunk(groups, 1)[g]);
  }
  return torch::cat(blocks);
}

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
