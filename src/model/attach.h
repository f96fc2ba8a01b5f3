// SPDX-License-Identifier: Apache-2.0
// An adapter whose targets are in the model, made ready to run.
#pragma once

#include "model/model_state.h"

namespace peft::detail {

/// Makes what forwards see of `record` from its targets, under `id`: for the
/// roster, and in the model's choice where one of this id is in it.
void attach(ModelState& state, AdapterRecord& record, AdapterId id);

/// What training needs between its steps.
void make_schedule(AdapterRecord& record);

}  // namespace peft::detail
