// SPDX-License-Identifier: Apache-2.0
// LoRA adapters on one weight made into one (PEFT's add_weighted_adapter). With
// w'_i = weight_i scale_i and D_i = B_i A_i, the factors A and B of the new
// one, whose scale is 1, are
//
//   linear, ties, ...   A = comb(sign(w'_i) sqrt|w'_i|, A_i)
//                       B = comb(sqrt|w'_i|, B_i): B A is not sum w'_i D_i
//   cat                 A = [w'_i A_i] by rows, B = [B_i] by columns: it is
//   svd                 the rank largest singular values of sum w'_i D_i
//   ties_svd, ...       the rank largest of comb(weight_i, scale_i D_i)
//
// with comb as in methods/weighted_sums.h. Only the last, and a clamped svd,
// make a matrix as large as the weight.
//
// The first kind works on factors of any shape, entry by entry, and prunes
// among all entries it is given: as PEFT does, give it whole factors. The
// others take matrices, those of methods/factor_blocks.h.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include "methods/factor_pair.h"
#include "methods/weighted_sums.h"

namespace peft::detail {

struct ScaledFactors {
  at::Tensor A;  ///< [r_i, in]
  at::Tensor B;  ///< [out, r_i]
  double weight = 1;
  double scale = 1;
};

struct Combination {
  enum class Type {
    linear,
    cat,
    svd,
    ties,
    ties_svd,
    dare_linear,
    dare_linear_svd,
    dare_ties,
    dare_ties_svd,
    magnitude_prune,
    magnitude_prune_svd,
  };

  Type type = Type::svd;
  /// Of the result, for svd types; above the rank there is, zeros fill it up.
  std::int64_t rank = 0;
  /// As in methods/factor_svd.h, for svd types.
  std::optional<double> svd_clamp = std::nullopt;
  /// For ties, dare and magnitude_prune.
  double density = 1;
  /// For ties.
  MajoritySign majority = MajoritySign::total;
  /// For dare: moved on. Else torch's own generator.
  std::optional<at::Generator> random = std::nullopt;
};

/// Whether the result has the rank that the combination names.
bool has_rank_of_its_own(Combination::Type type);
/// Whether it works entry by entry on factors that have one shape.
bool needs_equal_ranks(Combination::Type type);

/// float32 or float64, without gradient and sharing no memory with the parts.
/// Throws Error (config) for a density or clamp that cannot be, Error (input)
/// when an svd type finds NaN or infinite values.
FactorPair combine_factors(
    const std::vector<ScaledFactors>& parts,
    const Combination& how);

}  // namespace peft::detail
