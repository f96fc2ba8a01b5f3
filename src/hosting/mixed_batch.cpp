// SPDX-License-Identifier: Apache-2.0
#include "hosting/mixed_batch.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>

#include "base/text.h"
#include "graph/vmap.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

std::int64_t product(at::IntArrayRef sizes) {
  return std::accumulate(
      sizes.begin(), sizes.end(), std::int64_t{1}, std::multiplies<>());
}

// "2 for 'a', 1 for 'b'", of many the first few.
std::string describe(const std::vector<MixedBatch::Group>& groups) {
  constexpr std::size_t most = 5;
  std::string text;
  for (std::size_t g = 0; g < std::min(groups.size(), most); ++g) {
    text += concat(
        g == 0 ? "" : ", ",
        groups[g].rows.size(),
        " for '",
        groups[g].name,
        "'");
  }
  return groups.size() > most ? text + " and others" : text;
}

}  // namespace

at::Tensor RowSplit::in_group_order(const at::Tensor& x) const {
  if (repeated_) {
    std::vector<std::int64_t> shape = x.sizes().vec();
    shape[static_cast<std::size_t>(dim_)] = rows_;
    return x.expand(shape);
  }
  if (each_ == 1) {
    return order_.defined() ? x.index_select(dim_, order_) : x;
  }
  const at::Tensor rows = interleaved_
      ? x.unflatten(0, {each_, rows_}).transpose(0, 1)
      : x.unflatten(0, {rows_, each_});
  return (order_.defined() ? rows.index_select(0, order_) : rows).flatten(0, 1);
}

std::vector<at::Tensor> RowSplit::split(const at::Tensor& sorted) const {
  // What follows may write to the one part, which must be no view then.
  return sizes_.size() == 1 ? std::vector<at::Tensor>{sorted}
                            : sorted.split_with_sizes(sizes_, dim_);
}

at::Tensor RowSplit::join(const std::vector<at::Tensor>& parts) const {
  return parts.size() == 1 ? parts.front() : at::cat(parts, dim_);
}

at::Tensor RowSplit::in_batch_order(const at::Tensor& joined) const {
  if (each_ == 1) {
    return inverse_.defined() ? joined.index_select(dim_, inverse_) : joined;
  }
  at::Tensor rows = joined.unflatten(0, {rows_, each_});
  if (inverse_.defined()) {
    rows = rows.index_select(0, inverse_);
  }
  return (interleaved_ ? rows.transpose(0, 1) : rows).flatten(0, 1);
}

at::Tensor RowSplit::by_row(
    const std::vector<at::Tensor>& of_group,
    std::int64_t dimensions) const {
  std::vector<at::Tensor> rows;
  for (std::size_t g = 0; g < of_group.size(); ++g) {
    const at::Tensor& own = of_group[g];
    rows.push_back(own.unsqueeze(0).expand({sizes_[g] / each_, own.size(0)}));
  }
  at::Tensor sorted = at::cat(rows);
  if (inverse_.defined()) {
    sorted = sorted.index_select(0, inverse_);
  }
  if (each_ > 1) {
    sorted = interleaved_ ? sorted.repeat({each_, 1})
                          : sorted.repeat_interleave(each_, 0);
  }
  std::vector<std::int64_t> shape(static_cast<std::size_t>(dimensions), 1);
  shape[static_cast<std::size_t>(dim_)] = sorted.size(0);
  shape.back() = sorted.size(1);
  return sorted.view(shape);
}

MixedBatch::MixedBatch(std::vector<Group> groups, BatchOrder order)
    : groups_(std::move(groups)), batch_order_(order) {
  const c10::InferenceMode usable_in_training(false);
  std::vector<std::int64_t> sorted;
  for (const Group& group : groups_) {
    sorted.insert(sorted.end(), group.rows.begin(), group.rows.end());
  }
  rows_ = static_cast<std::int64_t>(sorted.size());
  if (!std::is_sorted(sorted.begin(), sorted.end())) {
    order_ = at::tensor(sorted, at::TensorOptions(at::kLong));
    inverse_ = order_.argsort();
  }
}

// `leading` are the dimensions of batch and positions.
bool MixedBatch::find_batch(
    at::IntArrayRef leading,
    BatchOrder order,
    RowSplit& split) const {
  const std::size_t count = leading.size();
  if (count == 0) {
    return false;
  }
  const bool positions_first = order == BatchOrder::positions_first;
  const bool together = order == BatchOrder::rows_together && leading[0] != 1;
  if (count == 1 || together) {
    // One position of each row, or all of them one after the other: as many as
    // an input that tells had.
    split.each_ = leading[0] / rows_;
    split.interleaved_ = positions_first;
    return leading[0] == rows_ * split.each_ && split.each_ > 0 &&
        (together || split.each_ == 1 || positions_.contains(split.each_));
  }
  const std::size_t dim = positions_first ? 1 : 0;
  split.dim_ = static_cast<std::int64_t>(dim);
  if (leading[dim] == rows_) {
    positions_.insert(product(leading) / rows_);
    return true;
  }
  split.repeated_ = leading[dim] == 1;
  return split.repeated_;
}

RowSplit MixedBatch::split(
    const at::Tensor& x,
    std::string_view layer,
    std::int64_t features,
    bool positions_first,
    bool flattened) const {
  if (graph::runs_in_vmap()) {
    throw Error(
        ErrorKind::unsupported,
        concat(
            "a mixed batch (BatchAdapters) meets '",
            layer,
            "' inside torch.vmap, which hides the rows of the batch; run each "
            "adapter's rows by themselves (UseAdapter)"));
  }
  if (flattened && positions_.empty() && x.size(0) % rows_ == 0) {
    positions_.insert(x.size(0) / rows_);
  }
  RowSplit split;
  split.rows_ = rows_;
  const auto leading = x.dim() < features
      ? at::IntArrayRef()
      : x.sizes().slice(0, static_cast<std::size_t>(x.dim() - features));
  const bool found = find_batch(
      leading,
      positions_first ? BatchOrder::positions_first : batch_order_,
      split);
  if (!found) {
    throw Error(
        ErrorKind::shape,
        concat(
            "a mixed batch (BatchAdapters) names the adapters of ",
            rows_,
            rows_ == 1 ? " row (" : " rows (",
            describe(groups_),
            "), and in the input ",
            x.sizes(),
            " of '",
            layer,
            "' as many cannot be told apart; name one adapter for each row, "
            "and give the layer [batch, ...], or [1, ...] for all rows alike. "
            "BatchOrder says where a model's tensors are [positions, batch, "
            "...] or [batch * n, ...]"));
  }
  for (const Group& group : groups_) {
    split.sizes_.push_back(
        static_cast<std::int64_t>(group.rows.size()) * split.each_);
  }
  if (order_.defined()) {
    split.order_ = order_.to(x.device());
    split.inverse_ = inverse_.to(x.device());
  }
  return split;
}

}  // namespace peft::detail
