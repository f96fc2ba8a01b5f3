// SPDX-License-Identifier: Apache-2.0
// The same tensor of several adapters made into one, entry by entry (PEFT's
// merge_utils). With T_i the tensors, w_i their weights, d the density:
//
//   task arithmetic   sum w_i T_i
//   magnitude prune   sum w_i P_i, P_i: the int(d n) entries of T_i, of its n,
//                     that are largest by magnitude, and zeros
//   DARE              sum w_i D_i, D_i = T_i * M_i / d, M_i ~ Bernoulli(d)
//   TIES              sum w_i e_i P_i / max(1, sum e_i), e_i: 1 where P_i has
//                     the elected sign, else 0
//   DARE with TIES    the same of D_i
//
// Signs are elected before weighting, so an adapter of negative weight votes as
// it was trained. A tie elects plus. Papers: arXiv 2212.04089 (task
// arithmetic), 2306.01708 (TIES), 2311.03099 (DARE).
#pragma once

#include <optional>
#include <vector>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace peft::detail {

/// What elects the sign of an entry.
enum class MajoritySign {
  total,      // the sign of the sum
  frequency,  // the sign that more of the tensors have
};

// Tensors are of one shape, whatever it is, and one weight goes with each. The
// results are float32 or float64 and have no gradient. Pruned tensors replace
// those given, so move large ones in.
//
// A density of 1 or more prunes nothing; one of 0 leaves zeros. Throws Error
// (config) when it is negative or NaN.
//
// Random numbers come from `random`, on its device, or else from torch's own
// generator of the tensors' device. On CPU they are those that PEFT takes from
// the same state for float32 tensors.

at::Tensor task_arithmetic(
    const std::vector<at::Tensor>& tensors,
    const std::vector<double>& weights);

at::Tensor magnitude_prune(
    std::vector<at::Tensor> tensors,
    const std::vector<double>& weights,
    double density);

at::Tensor ties(
    std::vector<at::Tensor> tensors,
    const std::vector<double>& weights,
    double density,
    MajoritySign majority);

at::Tensor dare_linear(
    std::vector<at::Tensor> tensors,
    const std::vector<double>& weights,
    double density,
    const std::optional<at::Generator>& random);

at::Tensor dare_ties(
    std::vector<at::Tensor> tensors,
    const std::vector<double>& weights,
    double density,
    MajoritySign majority,
    const std::optional<at::Generator>& random);

}  // namespace peft::detail
