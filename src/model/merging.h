// SPDX-License-Identifier: Apache-2.0
// Every weight that adapters touch, with the adapters merged in, one after the
// other.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/mistakes.h"
#include "hosting/merged_weights.h"
#include "model/choose.h"

namespace peft::detail {

class Merging {
 public:
  Merging(const ModelState& state, const Chosen& chosen, const char* asking);

  const AttachedAdapters& adapters() const { return adapters_; }
  const std::vector<const Site*>& sites() const { return sites_; }

  /// Calls `use` with every merged weight. Throws Error naming all that cannot
  /// be merged.
  void run(const std::function<void(const Site&, MergedWeight)>& use);

  /// A mistake of this weight's layer.
  void add(const Site& site, const std::string& text);
  void raise_if_any() const { mistakes_.raise_if_any(); }

 private:
  const ModelState& state_;
  const AttachedAdapters adapters_;
  std::vector<const Site*> sites_;
  Mistakes mistakes_;
};

/// A target on this weight or bias; nullptr: none.
const Target* target_of(const ModelState& state, const AdaptedWeight& weight);

/// Adds a mistake where no tensor of the model holds the weight: an exported
/// program computes it in each run.
void check_is_stored(
    Merging& merging,
    const ModelState& state,
    const Site& site);

/// Adds a mistake where the layer has no bias for the merged one to go into.
void check_has_bias(
    Merging& merging,
    const Site& site,
    const MergedWeight& merged);

/// `names`, or the active adapters when there are none. Throws Error (state)
/// when nothing is active.
std::vector<std::string> active_or(
    const ModelState& state,
    const std::vector<std::string>& names,
    const char* asking);

}  // namespace peft::detail
