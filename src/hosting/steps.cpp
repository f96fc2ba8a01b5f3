// SPDX-License-Identifier: Apache-2.0
#include "hosting/steps.h"

namespace peft::detail {

bool turn_to_matrix(Step& step) {
  if (auto* low_rank = std::get_if<LowRankStep>(&step)) {
    LowRank& form = low_rank->form;
    if (form.bias.defined() || form.A0.defined() || form.gain.defined()) {
      return false;
    }
    const at::Tensor A = form.A;
    form.A = form.B.t();
    form.B = A.t();
    return true;
  }
  return !std::holds_alternative<Gain>(step) &&
      !std::holds_alternative<Offset>(step);
}

bool take_outputs(Steps& steps, std::int64_t begin, std::int64_t end) {
  const auto take = [&](at::Tensor& tensor) {
    if (tensor.defined()) {
      tensor = tensor.slice(0, begin, end);
    }
  };
  for (Step& step : steps) {
    if (auto* low_rank = std::get_if<LowRankStep>(&step)) {
      take(low_rank->form.B);
      take(low_rank->form.B0);
      take(low_rank->form.bias);
      take(low_rank->form.gain);
    } else if (auto* gain = std::get_if<Gain>(&step)) {
      if (gain->side == Gain::Side::outputs) {
        take(gain->vector);
      }
    } else if (auto* offset = std::get_if<Offset>(&step)) {
      take(offset->vector);
    } else if (std::holds_alternative<Rows>(step)) {
      return false;
    }
  }
  return true;
}

}  // namespace peft::detail
