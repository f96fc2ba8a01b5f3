// SPDX-License-Identifier: Apache-2.0
// New values for an adapter, made beside the old ones and put in their place by
// one store: forwards that run go on with the old ones.
#pragma once

#include <memory>
#include <vector>

#include "model/make_target.h"

namespace peft::detail {

class Swap {
 public:
  Swap(AdapterRecord& record, const AdapterConfig& config, const char* asking);

  /// Makes everything; nothing has changed yet. Throws Error naming every
  /// mistake. `host`, where there is one, has the base that `given` may hold
  /// parts of; without it the adapter's own parts stay as they are. The report
  /// names the keys of targets that `given` has nothing for.
  LoadReport plan(const StateDict& given, const Host* host);
  void commit(ModelState& state);

 private:
  void note_given(const StateDict& weights);
  void fit();
  void make(const StateDict& weights, const Host* host);
  void plan_new_bases(
      InjectionPlan& plan,
      const StateDict& weights,
      const Host& host,
      Mistakes& mistakes) const;
  void make_one(std::size_t i, PlannedTarget planned);
  bool is_kept(std::size_t i) const;
  void move_in_tree(
      const std::vector<bool>& kept,
      const std::shared_ptr<Owner>& owner);
  void take_over_from(const Target& old, Target& next, bool kept) const;

  AdapterRecord& record_;
  const char* asking_;
  std::unique_ptr<AdapterConfig> config_;
  // The record's targets that the new ones stand for: all but its own parts of
  // the base, where these are planned anew at the end.
  std::vector<Target> targets_;
  std::vector<StoredShapes> shapes_;  // given, by target
  std::vector<bool> given_;           // by target
  std::vector<MadeTarget> made_;
  std::vector<std::string> without_weights_;  // keys
};

}  // namespace peft::detail
