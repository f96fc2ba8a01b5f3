// SPDX-License-Identifier: Apache-2.0
// One batch whose rows ask for different adapters. A layer's input is put in
// the order of the adapters, so that each has its rows together; the layer runs
// once on all of them, each adapter on its own, and the result goes back into
// the batch's order.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "hosting/choice.h"
#include "peft/batch_order.h"

namespace peft::detail {

/// How one tensor holds the rows of a mixed batch, and its parts by group.
class RowSplit {
 public:
  /// `x` as the split was made for, its rows in the order of the groups.
  at::Tensor in_group_order(const at::Tensor& x) const;
  std::int64_t dim() const { return dim_; }
  /// Of a tensor in group order.
  std::vector<at::Tensor> split(const at::Tensor& sorted) const;
  at::Tensor join(const std::vector<at::Tensor>& parts) const;
  /// One tensor [features] for each group as one that broadcasts against the
  /// split's own, whose last dimension has the features.
  at::Tensor by_row(
      const std::vector<at::Tensor>& of_group,
      std::int64_t dimensions) const;
  /// What join gave, in the batch's own order.
  at::Tensor in_batch_order(const at::Tensor& joined) const;

 private:
  friend class MixedBatch;

  std::int64_t dim_ = 0;      // of the batch
  std::int64_t rows_ = 1;     // in the batch
  std::int64_t each_ = 1;     // positions of a row that stand in `dim_` too
  bool interleaved_ = false;  // positions before rows there
  bool repeated_ = false;     // one row that stands for all
  std::vector<std::int64_t> sizes_;
  at::Tensor order_;  // undefined: as the batch's
  at::Tensor inverse_;
};

/// Belongs to the thread whose scope made it.
class MixedBatch {
 public:
  struct Group {
    std::string name;
    Choice choice;
    std::vector<std::int64_t> rows;
  };

  MixedBatch(std::vector<Group> groups, BatchOrder order);

  const std::vector<Group>& groups() const { return groups_; }
  std::int64_t rows() const { return rows_; }

  /// How the input `x` of `layer`, with `features` dimensions behind those of
  /// batch and positions, holds the batch. `positions_first`: in this layer,
  /// whatever the model's order. `flattened`: batch and positions are one
  /// dimension, also where no other input has told how many positions there
  /// are. Throws Error (shape) when it does not.
  RowSplit split(
      const at::Tensor& x,
      std::string_view layer,
      std::int64_t features,
      bool positions_first,
      bool flattened = false) const;

 private:
  bool find_batch(at::IntArrayRef leading, BatchOrder order, RowSplit& split)
      const;

  const std::vector<Group> groups_;
  const BatchOrder batch_order_;
  std::int64_t rows_ = 0;
  at::Tensor order_;
  at::Tensor inverse_;
  /// How many positions a row had in inputs that tell. Rows that were picked
  /// for an expert, or the places of positions, are no batch.
  mutable std::set<std::int64_t> positions_;
};

}  // namespace peft::detail
