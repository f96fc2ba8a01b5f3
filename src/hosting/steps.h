// SPDX-License-Identifier: Apache-2.0
// What adapters do inside an operator that reads a weight, in the order they
// act: see apply_adapters.h.
#pragma once

#include <variant>

#include <c10/util/SmallVector.h>

#include "methods/method.h"

namespace peft::detail {

struct LowRankStep {
  LowRank form;
  double dropout;
};

/// The vector [outputs] is added to the result: what a merged adapter adds
/// beside the weight, in a layer without a bias.
struct Offset {
  at::Tensor vector;
};

using Step = std::variant<LowRankStep, Gain, Rows, Observed, Offset>;
using Steps = c10::SmallVector<Step, 1>;

/// A step of a table [rows, features] as that of the matrix that maps features
/// to rows. False when it has no such form.
bool turn_to_matrix(Step& step);

/// The steps of consecutive outputs alone. False when one has no such form.
bool take_outputs(Steps& steps, std::int64_t begin, std::int64_t end);

}  // namespace peft::detail
