// SPDX-License-Identifier: Apache-2.0
#include "model/plan_again.h"

#include "model/own_bases.h"

namespace peft::detail {

WeightLayout layer_layout(const Target& target) {
  const bool has_own = !target.tied_to && target.attachment->layout;
  return has_own ? with_rows(target.layout, target.base.size(0))
                 : target.layout;
}

PlannedTarget plan_again(
    const Target& target,
    std::shared_ptr<const Method> method) {
  PlannedTarget planned{
      .hosted =
          {.name = target.tensor_name,
           .base = target.base,
           .layout = layer_layout(target),
           .is_training = target.attachment->is_training},
      .target = target,
      .method = std::move(method)};
  planned.target.own_base = at::Tensor();
  if (target.bias) {
    planned.bias = {
        {.base = target.bias->base()}, *target.bias_attachment->bias_rows};
  }
  return planned;
}

void stay_on_own_base(PlannedTarget& planned, const Target& target) {
  planned.target.own_base = target.own_base;
  if (!target.tied_to) {
    planned.own_layout = target.attachment->layout;
  }
}

}  // namespace peft::detail
