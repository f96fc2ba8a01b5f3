// SPDX-License-Identifier: Apache-2.0
// Where the rows of a batch stand in a model's tensors.
#pragma once

namespace peft {

enum class BatchOrder {
  /// [batch, positions, ...]
  batch_first,
  /// [positions, batch, ...], as in libtorch's transformer layers. (Its
  /// MultiheadAttention always has positions first, and is known.)
  positions_first,
  /// [batch * n, ...] with whatever n in each layer: positions, windows or
  /// patches of one row, that stand together.
  rows_together,
};

}  // namespace peft
