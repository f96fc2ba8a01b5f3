// SPDX-License-Identifier: Apache-2.0
// What a node's JSON says besides its arguments: names and origins.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graph/instruction.h"
#include "graph/json_fields.h"

namespace peft::graph {

/// What the targets of operators and of higher-order operators begin with.
constexpr std::string_view operator_prefix = "torch.ops.";
constexpr std::string_view higher_order_prefix = "torch.ops.higher_order.";
constexpr std::string_view functorch_prefix = "torch._functorch.predispatch.";

/// field(), checked to be a list.
const Json& list_field(const Json& object, const char* name);

/// Where the node comes from: its module stack and stack trace.
Origin read_origin(const Json& node);

/// The innermost module that a node was called in: {path, Python class}, both
/// empty when the node does not say.
std::pair<std::string, std::string> calling_module(const Json& node);

/// The names that a node's outputs define, those of lists one after the other;
/// "" for an output without a name.
std::vector<std::string> flat_names(const Json& outputs);

/// Throws BrokenJson when `node` gives one argument twice. Arguments without a
/// name stand at their positions.
void check_given_once(const Json& node);

}  // namespace peft::graph
