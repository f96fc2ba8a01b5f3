// SPDX-License-Identifier: Apache-2.0
#include "hosting/weight_readings.h"

#include "hosting/adapted_tensor.h"
#include "hosting/stack_product.h"

namespace peft::detail {
namespace {

using at::Tensor;
using Form = WeightLayout::Form;

// Whether `change` could turn the steps of every part.
template <class Change>
bool turn_all(WeightReading& reading, const Change& change) {
  for (CheapReading& part : reading.parts) {
    if (!change(part.steps)) {
      return false;
    }
  }
  return true;
}

bool turn_steps_to_matrix(Steps& steps) {
  for (Step& step : steps) {
    if (!turn_to_matrix(step)) {
      return false;
    }
  }
  return true;
}

std::optional<WeightReading> read_on_factors(
    const AdaptedTensor& adapted,
    bool inputs_first) {
  const WeightLayout& layout = adapted.weight()->layout();
  const WeightView& view = adapted.view();
  const bool is_table = layout.form == Form::table;
  const bool is_one_of_stack =
      layout.form == Form::stack && view.matrix_of_stack;
  if (!view.is_matrix ||
      (layout.form != Form::matrix && !is_table && !is_one_of_stack) ||
      (layout.inputs_first != view.transposed) != inputs_first) {
    return std::nullopt;
  }
  auto reading = adapted.weight()->cheap_reading();
  const bool is_read =
      reading && turn_all(*reading, [&](Steps& steps) {
        return (!is_table || turn_steps_to_matrix(steps)) &&
            (!is_one_of_stack ||
             take_matrix(steps, *view.matrix_of_stack, layout.count)) &&
            (!view.rows ||
             take_outputs(steps, view.rows->first, view.rows->second));
      });
  return is_read ? std::move(reading) : std::nullopt;
}

// In a mixed batch, where no one tensor is the weight.
std::optional<WeightReading> read_by_group(const AdaptedTensor& adapted) {
  const MixedBatch* batch = adapted.weight()->mixed_batch();
  return batch ? std::optional(adapted.weight()->effective_by_group(*batch))
               : std::nullopt;
}

}  // namespace

std::optional<WeightReading> as_linear_map(
    const Tensor& tensor,
    bool inputs_first) {
  const AdaptedTensor* adapted = as_adapted(tensor);
  if (!adapted) {
    return std::nullopt;
  }
  auto reading = read_on_factors(*adapted, inputs_first);
  if (!reading && tensor.dim() == 2) {
    reading = read_by_group(*adapted);
  }
  if (reading) {
    for (CheapReading& part : reading->parts) {
      part.base = adapted->replay(part.base);
    }
  }
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
  if (!reading || reading->batch ||
      !are_low_rank(reading->parts.front().steps)) {
    return std::nullopt;
  }
  CheapReading only = std::move(reading->parts.front());
  only.base = adapted->replay(only.base);
  return only;
}

std::optional<WeightReading> as_whole(const Tensor& tensor, Form form) {
  const AdaptedTensor* adapted = as_adapted(tensor);
  if (!adapted || !adapted->view().steps.empty() ||
      adapted->weight()->layout().form != form) {
    return std::nullopt;
  }
  auto reading = adapted->weight()->cheap_reading();
  return reading ? std::move(reading) : read_by_group(*adapted);
}

}  // namespace peft::detail
