// SPDX-License-Identifier: Apache-2.0
#include "hosting/weight_readings.h"

#include "hosting/adapted_tensor.h"
#include "hosting/stack_product.h"

namespace peft::detail {
namespace {

using at::Tensor;
using Form = WeightLayout::Form;

// The steps of consecutive outputs alone. False when one has no such form.
bool take_outputs(Steps& steps, std::int64_t begin, std::int64_t end) {
  const auto take = [&](Tensor& tensor) {
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
    } else if (std::holds_alternative<Rows>(step)) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::optional<CheapReading> as_linear_map(
    const Tensor& tensor,
    bool inputs_first) {
  const AdaptedTensor* adapted = as_adapted(tensor);
  if (!adapted || !adapted->view().is_matrix) {
    return std::nullopt;
  }
  const WeightLayout& layout = adapted->weight()->layout();
  const WeightView& view = adapted->view();
  const bool is_table = layout.form == Form::table;
  const bool is_one_of_stack =
      layout.form == Form::stack && view.matrix_of_stack;
  if ((layout.form != Form::matrix && !is_table && !is_one_of_stack) ||
      (layout.inputs_first != view.transposed) != inputs_first) {
    return std::nullopt;
  }
  auto reading = adapted->weight()->cheap_reading();
  if (!reading || (is_table && !turn_to_matrix(reading->steps)) ||
      (is_one_of_stack &&
       !take_matrix(reading->steps, *view.matrix_of_stack, layout.count)) ||
      (view.rows &&
       !take_outputs(reading->steps, view.rows->first, view.rows->second))) {
    return std::nullopt;
  }
  reading->base = adapted->replay(reading->base);
  return reading;
}

std::optional<CheapReading> as_stack(const Tensor& tensor) {
  const AdaptedTensor* adapted = as_adapted(tensor);
  if (!adapted || !adapted->view().is_matrix ||
      adapted->view().matrix_of_stack) {
    return std::nullopt;
  }
  const WeightLayout& layout = adapted->weight()->layout();
  if (layout.form != Form::stack ||
      layout.inputs_first == adapted->view().transposed) {
    return std::nullopt;
  }
  auto reading = adapted->weight()->cheap_reading();
  if (!reading || !are_low_rank(reading->steps)) {
    return std::nullopt;
  }
  reading->base = adapted->replay(reading->base);
  return reading;
}

std::optional<CheapReading> as_whole(const Tensor& tensor, Form form) {
  const AdaptedTensor* adapted = as_adapted(tensor);
  if (!adapted || !adapted->view().steps.empty() ||
      adapted->weight()->layout().form != form) {
    return std::nullopt;
  }
  return adapted->weight()->cheap_reading();
}

}  // namespace peft::detail
