// SPDX-License-Identifier: Apache-2.0
// The first half of an injection: everything that will be done, worked out
// and checked while nothing is changed.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "methods/method_table.h"
#include "model/model_state.h"

namespace peft::detail {

/// The bias that goes with a weight, all of it or some of its rows.
struct PlannedBias {
  HostedTensor hosted;
  std::pair<std::int64_t, std::int64_t> rows;
};

/// One adapter on one weight, to be.
struct PlannedTarget {
  HostedTensor hosted;
  Target target;  // weight and attachment follow in the second half
  std::shared_ptr<const Method> method;
  std::optional<PlannedBias> bias = {};  // set when the method changes it
  /// Set: how the method reads the weight where the adapter's own copy of it
  /// has other rows than the layer's.
  std::optional<WeightLayout> own_layout = {};
};

/// Paths of layers that were one object with another in the model of the file
/// that is loaded, and whether the adapter's tensors stand in it twice then.
using OneObject = std::map<std::string, bool>;

/// What tensors that are there already say beyond their config.
struct GivenTensors {
  bool any = false;
  /// Layers that get no adapter of their own: they use that of the other layer
  /// that has their weight.
  OneObject one_object = {};
  /// Parameters whose factors fit them only the other way round than their
  /// class was registered.
  std::set<std::string> turned = {};
  /// Set: the values, of which some may be the base's own.
  const StateDict* weights = nullptr;
  /// Weights of layers that are neither tables nor their heads may come along
  /// too: see LoadOptions.
  bool own_base_weights = false;
};

struct InjectionPlan {
  std::string name;
  std::unique_ptr<AdapterConfig> config;
  MatchReport report;
  std::vector<PlannedTarget> targets;
  StateDict base_keys = StateDict();  // see AdapterRecord
  GivenTensors given = {};
};

/// Matches and checks. `state` is the model's, or nullptr before the first
/// injection. What `given` holds of the base becomes the adapter's own. Throws
/// Error naming every mistake.
InjectionPlan plan_injection(
    const AdapterConfig& config,
    const Host& host,
    const ModelState* state,
    const std::string& name,
    const GivenTensors& given = {});

/// `layout` with inputs and outputs the other way round in the weight.
WeightLayout turned(WeightLayout layout);

/// The dry run behind peft::match_report.
MatchReport report_matches(const AdapterConfig& config, const Host& host);

}  // namespace peft::detail
