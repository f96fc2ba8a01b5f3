// SPDX-License-Identifier: Apache-2.0
// Which adapters run: one immutable choice per model, replaced by one store, so
// that switching never walks the model and a forward sees one choice.
#pragma once

#include <memory>
#include <vector>

#include "hosting/attachment.h"
#include "hosting/snapshot.h"

namespace peft::detail {

class MergedWeights;

using AttachedAdapters = std::vector<std::shared_ptr<const AttachedAdapter>>;

struct Choice {
  bool enabled = true;
  AttachedAdapters adapters = {};  // in the order they apply
  /// Set: weights with adapters merged in are read in place of `adapters`.
  std::shared_ptr<const MergedWeights> merged = nullptr;
};

/// A model's own choice.
using Activation = Snapshot<Choice>;

/// That of a weight that stands alone, with the id 0: this one attachment.
std::shared_ptr<const Activation> always(
    std::shared_ptr<const Attachment> attachment);

}  // namespace peft::detail
