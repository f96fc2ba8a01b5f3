// SPDX-License-Identifier: Apache-2.0
// What an adapter's step needs of table lookups: see apply_adapters.cpp.
#pragma once

#include <ATen/TensorIndexing.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/where.h>

#include "hosting/apply_adapters.h"

namespace peft::detail {

// Table lookups: "x" are the indices.
class LookupOperator {
  using Tensor = at::Tensor;

 public:
  LookupOperator(const Lookup& lookup, const Tensor& table, const Tensor&)
      : lookup_(lookup), table_(table) {}

  Tensor run(const Tensor& indices) const { return look_up(table_, indices); }
  Tensor map(const Tensor& indices) const { return run(indices); }
  const Tensor& bias() const { return none_; }
  double alpha() const { return 1; }

  Tensor input(const Tensor& indices, const Tensor&, double) const {
    return indices;
  }

  Tensor product(const Tensor& i, const Tensor& A, const Tensor& B) const {
    return at::linear(look_up(A.t(), i), B);
  }

  Tensor add_product(
      const Tensor& y,
      const Tensor& i,
      const Tensor& A,
      const Tensor& B,
      double scale) const {
    return at::add(y, product(i, A, B), scale);
  }

  Tensor over_outputs(const Tensor& vector) const { return vector; }
  // No method scales the inputs of a table.
  Tensor over_inputs(const Tensor& vector) const { return vector; }

  Tensor replace_rows(const Tensor& y, const Tensor& i, const Rows& rows)
      const {
    const Tensor tokens = rows.index[0];
    const std::int64_t last = tokens.size(0) - 1;
    const Tensor near =
        at::searchsorted(tokens, i.contiguous()).clamp_max(last);
    const Tensor is_row = tokens.index({near}).eq(i);
    // All others look up a row of zeros behind the last, so that gradients by
    // frequency count the rows alone.
    const Tensor place =
        at::where(is_row, rows.index[1].index({near}), last + 1);
    const Tensor values =
        at::cat({rows.values, rows.values.new_zeros({1, rows.values.size(1)})});
    const Tensor found = at::embedding(
        values,
        place,
        padding_place(rows),
        lookup_.scale_grad_by_freq,
        /*sparse=*/false);
    return at::where(is_row.unsqueeze(-1), found.to(y.scalar_type()), y);
  }

 private:
  // Rows of the padding token get no gradient; -1: it is none of them.
  std::int64_t padding_place(const Rows& rows) const {
    if (lookup_.padding_idx < 0) {
      return -1;
    }
    const Tensor at = rows.index[0].eq(lookup_.padding_idx).nonzero();
    return at.size(0) == 0
        ? -1
        : rows.index[1][at[0][0].item<std::int64_t>()].item<std::int64_t>();
  }

  Tensor look_up(const Tensor& table, const Tensor& indices) const {
    return at::embedding(
        table,
        indices,
        lookup_.padding_idx,
        lookup_.scale_grad_by_freq,
        lookup_.sparse);
  }

  const Lookup& lookup_;
  const Tensor& table_;
  const Tensor none_;
};
}  // namespace peft::detail
