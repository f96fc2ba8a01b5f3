// SPDX-License-Identifier: Apache-2.0
// What never ran or cannot learn: adapters that were placed and take no part.
#pragma once

#include <string>
#include <vector>

#include "peft/export.h"

namespace peft {

/// One place where nothing happened, and the likely reason.
struct PEFT_API AuditEntry {
  std::string adapter;
  std::string layer;
  /// The tensor by its key in files; "" for the layer as a whole.
  std::string key;
  std::string reason;
};

struct PEFT_API AuditReport {
  /// Layers whose weight another tensor took the place of since the adapter was
  /// placed, as where forward says `layer->weight = ...`: it does nothing
  /// there.
  std::vector<AuditEntry> set_anew;
  /// Layers whose weight no forward has read with the adapter on it since it
  /// was placed.
  std::vector<AuditEntry> never_called;
  /// Tensors that require grad and have none now.
  std::vector<AuditEntry> without_gradient;
  /// Tensors that do not require grad, of an adapter that trains: one injected
  /// or loaded for training, or given set_requires_grad(name, true) last.
  std::vector<AuditEntry> frozen;

  bool empty() const {
    return set_anew.empty() && never_called.empty() &&
        without_gradient.empty() && frozen.empty();
  }
  /// One line for each entry of up to 20 of a kind, and how many more.
  std::string to_string() const;
};

}  // namespace peft
