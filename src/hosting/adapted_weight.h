// SPDX-License-Identifier: Apache-2.0
// One weight with every adapter that stands on it. The base is the module's
// own parameter, never rewritten; adapters come and go as attachments.
//
// Readers (a forward) may run in any number of threads while attach() and
// detach() run in one other: each reader works on a snapshot.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include "hosting/activation.h"
#include "methods/method.h"

namespace torch::nn {
class DropoutImpl;
}

namespace peft::detail {

/// One adapter on one weight.
struct Attachment {
  AdapterId adapter = 0;
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
  /// Shared by a weight's attachment and its bias's.
  std::shared_ptr<std::atomic<double>> scale =
      std::make_shared<std::atomic<double>>(1.0);

  /// The dropout to apply now: 0 in eval mode.
  double dropout_now() const;
};

struct LowRankStep {
  LowRank form;
  double dropout;
};

/// What one adapter does inside an operator, in the order they act.
using Step = std::variant<LowRankStep, Gain, Rows, Observed>;
using Steps = c10::SmallVector<Step, 1>;

/// The steps of a table [rows, features] as those of the matrix that maps
/// features to rows. False when one has no such form.
bool turn_to_matrix(Steps& steps);

/// A weight as the plain tensor and what the active adapters do to it.
struct CheapReading {
  at::Tensor base;
  Steps steps;
};

class AdaptedWeight {
 public:
  AdaptedWeight(
      at::Tensor base,
      WeightLayout layout,
      std::shared_ptr<const Activation> activation);

  const at::Tensor& base() const { return base_; }
  const WeightLayout& layout() const { return layout_; }

  void attach(std::shared_ptr<const Attachment> attachment);
  void detach(AdapterId adapter);
  bool has_attachments() const { return !attachments_.load()->empty(); }
  bool has(AdapterId adapter) const;

  /// Base and steps; nothing when an active adapter has no cheap form.
  std::optional<CheapReading> cheap_reading() const;
  /// The weight as the active adapters make it, differentiable; the base
  /// itself when none is active.
  at::Tensor effective() const;
  /// The plain tensor that an in-place write means: the base, or the active
  /// adapter's own copy of a module that is trained whole.
  at::Tensor written() const;

  /// The tensor that stands for this weight in its module.
  void stands_in(const at::Tensor& tensor);
  at::Tensor tensor() const;
  /// The base is about to be cast: the tensor's dtype follows.
  void announce_dtype(at::ScalarType dtype) const;
  /// Moves all adapters' tensors to the base's device, floats to its dtype.
  void move_attachments() const;

 private:
  using Attachments = std::vector<std::shared_ptr<const Attachment>>;

  c10::SmallVector<std::shared_ptr<const Attachment>, 2> active() const;
  Application application(const Attachment& attachment) const;
  /// The step that `form` is inside this weight's operator.
  std::optional<Step> step_of(const Attachment& attachment, CheapForm form)
      const;

  const at::Tensor base_;
  const WeightLayout layout_;
  const std::shared_ptr<const Activation> activation_;
  const SquaredNorms norms_;
  Snapshot<Attachments> attachments_;  // sorted by adapter id
  c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> tensor_;
};

/// How often an effective weight was formed since the process started. Common
/// layers never do; tests watch it.
std::int64_t effective_weights_formed();

}  // namespace peft::detail
