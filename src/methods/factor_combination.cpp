// SPDX-License-Identifier: Apache-2.0
#include "methods/factor_combination.h"

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <c10/util/Exception.h>

#include "methods/factor_svd.h"
#include "methods/squared_norms.h"

namespace peft::detail {
namespace {

using Parts = std::vector<ScaledFactors>;
using Type = Combination::Type;

at::Tensor comb(
    std::vector<at::Tensor> tensors,
    const std::vector<double>& weights,
    const Combination& how) {
  switch (how.type) {
    case Type::linear:
    case Type::svd:
      return task_arithmetic(tensors, weights);
    case Type::magnitude_prune:
    case Type::magnitude_prune_svd:
      return magnitude_prune(std::move(tensors), weights, how.density);
    case Type::ties:
    case Type::ties_svd:
      return ties(std::move(tensors), weights, how.density, how.majority);
    case Type::dare_linear:
    case Type::dare_linear_svd:
      return dare_linear(std::move(tensors), weights, how.density, how.random);
    case Type::dare_ties:
    case Type::dare_ties_svd:
      return dare_ties(
          std::move(tensors), weights, how.density, how.majority, how.random);
    default:
      TORCH_INTERNAL_ASSERT(false, "cat is no sum of entries");
  }
}

FactorPair combine_entries(const Parts& parts, const Combination& how) {
  std::vector<at::Tensor> of_A;
  std::vector<at::Tensor> of_B;
  std::vector<double> weights_A;
  std::vector<double> weights_B;
  for (const ScaledFactors& part : parts) {
    const double strength = part.weight * part.scale;
    const double root = std::sqrt(std::abs(strength));
    of_A.push_back(part.A);
    of_B.push_back(part.B);
    // On one side only: on both, minus times minus would make plus.
    weights_A.push_back(std::copysign(root, strength));
    weights_B.push_back(root);
  }
  // A first, as PEFT draws random numbers.
  const at::Tensor A = comb(std::move(of_A), weights_A, how);
  return {A, comb(std::move(of_B), weights_B, how)};
}

FactorPair concatenate(const Parts& parts) {
  std::vector<at::Tensor> rows;
  std::vector<at::Tensor> columns;
  for (const ScaledFactors& part : parts) {
    rows.push_back(exact(part.A) * (part.weight * part.scale));
    columns.push_back(exact(part.B));
  }
  return {at::cat(rows, 0), at::cat(columns, 1)};
}

at::Tensor combine_deltas(const Parts& parts, const Combination& how) {
  std::vector<at::Tensor> deltas;
  std::vector<double> weights;
  for (const ScaledFactors& part : parts) {
    const at::Tensor product = at::matmul(exact(part.B), exact(part.A));
    deltas.push_back(product * part.scale);
    weights.push_back(part.weight);
  }
  return comb(std::move(deltas), weights, how);
}

}  // namespace

bool has_rank_of_its_own(Type type) {
  switch (type) {
    case Type::svd:
    case Type::ties_svd:
    case Type::dare_linear_svd:
    case Type::dare_ties_svd:
    case Type::magnitude_prune_svd:
      return true;
    default:
      return false;
  }
}

bool needs_equal_ranks(Type type) {
  return type != Type::cat && !has_rank_of_its_own(type);
}

FactorPair combine_factors(const Parts& parts, const Combination& how) {
  TORCH_INTERNAL_ASSERT(!parts.empty());
  const at::NoGradGuard no_grad;
  if (needs_equal_ranks(how.type)) {
    return combine_entries(parts, how);
  }
  if (how.type == Type::cat) {
    return concatenate(parts);
  }
  // Clamped values depend on the signs of singular vectors: those that PEFT has
  // come from the product itself.
  const Svd svd = how.type == Type::svd && !how.svd_clamp
      ? svd_of_product(concatenate(parts))
      : svd_of_matrix(combine_deltas(parts, how));
  return factors_of(svd, how.rank, how.svd_clamp);
}

}  // namespace peft::detail
