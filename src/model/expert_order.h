// SPDX-License-Identifier: Apache-2.0
// Factors of stacks of matrices (experts in target_parameters) as PEFT before
// 0.19.1 wrote them. A parameter [E, a, b] was read as E maps from a to b
// whatever the module said, so that A is [E r, a] and B [b, r E]:
//
//   delta[e, i, j] = sum_k A[e, k, i] B[j, k, e]
//
// 0.19.1 reads E maps from b to a, unless the module says is_transposed:
//
//   delta[e, i, j] = sum_k B'[i, k, e] A'[e, k, j]
//
// Both are the same for A'[e, k, j] = B[j, k, e], B'[i, k, e] = A[e, k, i].
// (0.19.0 had read is_transposed the wrong way round.) A stack of one matrix
// never was another: PEFT multiplies its factors as those of a matrix.
#pragma once

#include <vector>

#include "model/model_state.h"

namespace peft::detail {

/// Whether the config is of a PEFT that read this layout the other way.
bool is_of_older_order(const WeightLayout& layout, const AdapterConfig& config);

/// Whether files of this adapter may mean something else than today's: the same
/// of one of its targets.
bool is_of_older_order(
    const std::vector<Target>& targets,
    const AdapterConfig& config);

/// `weights`, by the keys of a file, with the factors of stacks as PEFT writes
/// them today; what carries no "base_model.model." is in today's order already
/// unless its shapes tell otherwise. Warns once of what was changed, unless
/// `quiet`.
StateDict in_todays_order(
    const std::vector<Target>& targets,
    const AdapterConfig& config,
    StateDict weights,
    bool quiet = false);

}  // namespace peft::detail
