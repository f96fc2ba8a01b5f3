// SPDX-License-Identifier: Apache-2.0
// One adapter on one weight, and one adapter on all of its weights.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>

#include <c10/util/ArrayRef.h>
#include <c10/util/SmallVector.h>

#include "methods/method.h"

namespace torch::nn {
class DropoutImpl;
}

namespace peft::detail {

/// An adapter, and a weight, within their model; never used again.
using AdapterId = std::uint32_t;
using WeightId = std::uint32_t;

/// One adapter on one weight.
struct Attachment {
  std::shared_ptr<const Method> method;
  Tensors parameters;  // in the order of the method's specs
  /// Set: how the method reads the weight, where its own layer reads it
  /// otherwise (the adapter of a table on the head that is tied to it).
  std::optional<WeightLayout> layout = {};
  /// Set: it stands on the bias that goes with the weight, on these rows of it
  /// (begin, end).
  std::optional<std::pair<std::int64_t, std::int64_t>> bias_rows;
  std::shared_ptr<torch::nn::DropoutImpl> dropout;  // none: no dropout
  /// Whether the layer trains; not set: the dropout module knows.
  std::function<bool()> is_training;
  /// The user's factor.
  double scale = 1;
  /// Set: it stands for the tensor itself, below all that adapters add to it,
  /// and these are its norms.
  std::shared_ptr<const SquaredNorms> own_norms;

  /// Whether a forward has read the weight with this on it.
  mutable std::atomic<bool> was_read = false;

  Attachment() = default;
  Attachment(const Attachment& other)
      : method(other.method),
        parameters(other.parameters),
        layout(other.layout),
        bias_rows(other.bias_rows),
        dropout(other.dropout),
        is_training(other.is_training),
        scale(other.scale),
        own_norms(other.own_norms),
        was_read(other.was_read.load()) {}

  /// The dropout to apply now: 0 in eval mode.
  double dropout_now() const;
};

/// One adapter as forwards see it: what it has on which weight. Complete before
/// the first forward reads it and never changed after; what changes an
/// adapter's tensors for others makes a new one.
class AttachedAdapter {
 public:
  using Attachments = c10::ArrayRef<std::shared_ptr<const Attachment>>;

  /// `is_resident`: its tensors have values.
  explicit AttachedAdapter(
      AdapterId id,
      std::size_t order = 0,
      bool is_resident = true,
      std::shared_ptr<std::atomic<std::uint64_t>> last_use = nullptr)
      : id_(id),
        order_(order),
        is_resident_(is_resident),
        last_use_(std::move(last_use)) {}

  AdapterId id() const { return id_; }
  /// Adapters of lower order act before it, whenever they were chosen: those of
  /// a method that came into the model earlier.
  std::size_t order() const { return order_; }
  bool is_resident() const { return is_resident_; }
  /// Notes that it was chosen, where somebody counts that.
  void touch(std::atomic<std::uint64_t>& clock) const {
    if (last_use_) {
      last_use_->store(++clock);
    }
  }
  void add(WeightId weight, std::shared_ptr<const Attachment> attachment) {
    by_weight_[weight].push_back(std::move(attachment));
  }
  /// In the order they were added: several where the projections of an
  /// attention share one bias.
  Attachments on(WeightId weight) const {
    const auto found = by_weight_.find(weight);
    return found == by_weight_.end() ? Attachments()
                                     : Attachments(found->second);
  }

 private:
  using List = c10::SmallVector<std::shared_ptr<const Attachment>, 1>;

  const AdapterId id_;
  const std::size_t order_;
  const bool is_resident_;
  const std::shared_ptr<std::atomic<std::uint64_t>> last_use_;
  std::unordered_map<WeightId, List> by_weight_;
};

}  // namespace peft::detail
