// SPDX-License-Identifier: Apache-2.0
// One weight with every adapter that stands on it. The base is the module's
// own parameter, never rewritten. What an adapter has on the weight is found by
// the weight's id in what runs: see choice.h.
//
// Readers (a forward) may run in any number of threads while others switch,
// swap, merge and delete adapters: each reading is of one choice.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include "hosting/choice.h"
#include "hosting/steps.h"
#include "hosting/thread_choice.h"
#include "hosting/weight_mask.h"
#include "methods/method.h"

namespace peft::detail {

/// A weight as a plain tensor and what adapters do to it.
struct CheapReading {
  at::Tensor base;
  Steps steps = {};
  /// `base` is the layer's own, not an adapter's or a merged one.
  bool is_own = true;
};

/// What an operator runs on: one reading, or in a mixed batch one for each of
/// its groups.
struct WeightReading {
  c10::SmallVector<CheapReading, 1> parts;
  const MixedBatch* batch = nullptr;
  std::string_view layer = {};  // for messages
};

/// What the adapters that run do to a weight.
enum class WeightChange { none, sum, other };

/// A weight with adapters merged in, and the vector [outputs] that they add
/// beside it; undefined: none.
struct MergedWeight {
  at::Tensor weight;
  at::Tensor offset = {};
};

class AdaptedWeight {
 public:
  /// `layer` is what messages call it.
  AdaptedWeight(
      WeightId id,
      at::Tensor base,
      WeightLayout layout,
      std::shared_ptr<const Activation> activation,
      std::string layer = "the tensor");

  /// The same adapters on another base of the same shape.
  std::shared_ptr<AdaptedWeight> on(at::Tensor base) const;

  WeightId id() const { return id_; }
  const at::Tensor& base() const { return base_; }
  const WeightLayout& layout() const { return layout_; }
  const std::string& layer() const { return layer_; }

  /// Base and steps; nothing when an adapter that runs has no cheap form.
  std::optional<WeightReading> cheap_reading() const;
  /// The weight as the adapters that run make it, differentiable; the base
  /// itself when none does. Throws Error (unsupported) when it has no tensor of
  /// the base's shape, or in a mixed batch that has adapters on it.
  at::Tensor effective() const;
  /// The plain tensor that an in-place write means: the base, or the adapter's
  /// own copy of a module that is trained whole.
  at::Tensor written() const;
  /// What the adapters that run, of any group of a mixed batch, do to it; a
  /// copy of the weight that they have for their own is no change.
  WeightChange change() const;
  /// Zeros that were written into a part of it.
  WeightMask& mask() const { return mask_; }

  /// The mixed batch that this thread runs, when it has an adapter here.
  const MixedBatch* mixed_batch() const;
  at::Tensor effective_in_group(std::size_t group) const;
  /// Each group's own effective weight, where there is no cheaper form.
  WeightReading effective_by_group(const MixedBatch& batch) const;

  /// The weight with `adapters` merged in: computed in float32 or better and
  /// rounded once, without gradient. A kernel in groups whose adapter reads
  /// every input comes as one of a single group.
  MergedWeight merged_with(const AttachedAdapters& adapters) const;
  bool is_touched_by(const AttachedAdapters& adapters) const;

  /// The tensor that stands for this weight in its module.
  void stands_in(const at::Tensor& tensor);
  at::Tensor tensor() const;
  /// The base is about to be cast: the tensor's dtype follows.
  void announce_dtype(at::ScalarType dtype) const;
  /// Moves an adapter's tensors to the base's device, floats to its dtype.
  void move(const Attachment& attachment) const;

 private:
  using Active = c10::SmallVector<const Attachment*, 2>;

  /// What adapters stand on: the base, or an adapter's own copy of it.
  struct Ground {
    const at::Tensor& tensor;
    const SquaredNorms& norms;
  };

  /// Copies of the base first, as everything else stands on them.
  Active active(const Choice& choice) const;
  Ground ground(const Active& active) const;
  Application application(
      const Attachment& attachment,
      const Ground& ground,
      double scale) const;
  /// The step that `form` is inside this weight's operator.
  std::optional<Step> step_of(const Attachment& attachment, CheapForm form)
      const;
  std::optional<CheapReading> read(const Choice& choice, double scale) const;
  at::Tensor effective(const Choice& choice, double scale) const;
  at::Tensor apply(const Active& active, double scale, at::Tensor weight) const;
  bool mixes_groups(const Active& active) const;
  WeightChange change_by(const Active& active) const;
  at::Tensor offset_of(const Active& active) const;

  const WeightId id_;
  const at::Tensor base_;
  const WeightLayout layout_;
  const std::shared_ptr<const Activation> activation_;
  const std::string layer_;
  const SquaredNorms norms_;
  mutable WeightMask mask_;
  c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> tensor_;
};

/// How often an effective weight was formed since the process started. Common
/// layers never do; tests watch it.
std::int64_t effective_weights_formed();

}  // namespace peft::detail
