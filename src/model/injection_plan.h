// SPDX-License-Identifier: Apache-2.0
// The first half of an injection: everything that will be done, worked out
// and checked while nothing is changed.
#pragma once

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
};

struct InjectionPlan {
  std::string name;
  std::unique_ptr<AdapterConfig> config;
  MatchReport report;
  std::vector<PlannedTarget> targets;
  std::vector<TrainedBias> biases;
};

/// Matches and checks. `state` is the model's, or nullptr before the first
/// injection. Layers in `one_object` get no adapter of their own: they use
/// that of the other layer that has their weight. Throws Error naming every
/// mistake.
InjectionPlan plan_injection(
    const AdapterConfig& config,
    const Host& host,
    const ModelState* state,
    const std::string& name,
    const std::set<std::string>& one_object = {});

/// The dry run behind peft::match_report.
MatchReport report_matches(const AdapterConfig& config, const Host& host);

}  // namespace peft::detail
