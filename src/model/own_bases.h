// SPDX-License-Identifier: Apache-2.0
// What the file of an adapter holds of the base itself. PEFT writes whole
// tables and heads beside the adapters of embeddings, under
// "<layer>.base_layer.weight" or, of an enlarged vocabulary, under
// "embed_tokens.weight". Where the values are the base's, there is nothing to
// do; others become the adapter's own copy of the tensor, with as many rows as
// the file has. The base is never written.
#pragma once

#include <string>
#include <vector>

#include "model/injection_plan.h"

namespace peft::detail {

/// Adds to `plan` a target for each tensor of the base that `given` has with
/// other values, fits the plan's other targets to their rows, and notes in
/// `plan.base_keys` under which keys files may hold the base. The last part of
/// planning.
void plan_own_bases(
    InjectionPlan& plan,
    const std::vector<HostedLayer>& layers,
    const GivenTensors& given,
    Mistakes& mistakes);

/// Gives each target of the method the adapter's own copy of what it stands on.
void link_own_bases(std::vector<Target>& targets);

/// The layout of a table or matrix with another number of rows.
WeightLayout with_rows(WeightLayout layout, std::int64_t rows);

/// Whether `value` is `base` in the dtype of one of the two.
bool has_values_of(const at::Tensor& base, const at::Tensor& value);

}  // namespace peft::detail
