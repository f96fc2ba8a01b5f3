// SPDX-License-Identifier: Apache-2.0
// What a pass over data found, given to an injection: the ranks it asks for,
// and whether it is there for every layer.
#pragma once

#include "model/injection.h"

namespace peft::detail {

/// `plan` with the ranks of `data`; layers without a rank have no adapter.
InjectionPlan fit_to_data(
    InjectionPlan plan,
    const Host& host,
    const ModelState* state,
    const StateDict& data);

/// Throws Error (config) when layers of `plan` start from data that is not
/// there, (shape) when it does not fit them.
void check_init_data(
    const InjectionPlan& plan,
    const InjectionOptions& options);

}  // namespace peft::detail
