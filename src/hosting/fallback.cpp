// SPDX-License-Identifier: Apache-2.0
#include "hosting/fallback.h"

#include <algorithm>
#include <array>
#include <string_view>

#include <ATen/core/grad_mode.h>

#include "hosting/adapted_tensor.h"
#include "hosting/in_place_write.h"
#include "hosting/mixed_batch.h"

namespace peft::detail {
namespace {

using torch::jit::Stack;

// Aliasing operators that people call to get at the data: give them data.
constexpr std::array<std::string_view, 4> reads = {
    "aten::contiguous",
    "aten::to",
    "aten::cpu",
    "aten::cuda"};

bool is_view(const c10::FunctionSchema& schema) {
  if (schema.arguments().empty() || schema.returns().size() != 1 ||
      std::find(reads.begin(), reads.end(), schema.name()) != reads.end()) {
    return false;
  }
  const auto* from = schema.arguments()[0].alias_info();
  const auto* to = schema.returns()[0].alias_info();
  const bool list =
      schema.returns()[0].type()->kind() == c10::TypeKind::ListType;
  return from && !from->isWrite() && ((to && !to->isWrite()) || list);
}

// Whether the view swaps the two dimensions of a matrix, or of each matrix in a
// stack of them when `dims` is 3.
bool is_transpose(
    const c10::OperatorName& name,
    const Stack& arguments,
    std::int64_t dims) {
  const auto from_end = [&](std::int64_t dim) {
    return dim < 0 ? dim : dim - dims;  // -1, -2 are those of a matrix
  };
  if (name.name == "aten::t" || name.name == "aten::numpy_T") {
    return dims == 2;
  }
  if (name.name == "aten::mT") {
    return true;
  }
  if (name.name == "aten::transpose" && name.overload_name == "int") {
    const auto a = from_end(arguments[1].toInt());
    const auto b = from_end(arguments[2].toInt());
    return a + b == -3 && (a == -1 || b == -1);
  }
  if (name.name == "aten::permute") {
    const auto order = arguments[1].toIntVector();
    return from_end(order[order.size() - 1]) == -2 &&
        from_end(order[order.size() - 2]) == -1;
  }
  return false;
}

// Which matrix of a stack the view takes; nothing: another view.
std::optional<std::int64_t> taken_matrix(
    const ViewStep& step,
    std::int64_t count) {
  const auto& name = step.op.operator_name();
  const bool selects =
      name.name == "aten::select" && name.overload_name == "int";
  const bool unbinds =
      name.name == "aten::unbind" && name.overload_name == "int";
  if (!selects && !unbinds) {
    return std::nullopt;
  }
  const auto dim = step.arguments[1].toInt();
  if (dim != 0 && dim != -3) {
    return std::nullopt;
  }
  const auto index = selects ? step.arguments[2].toInt()
                             : static_cast<std::int64_t>(*step.output);
  return index < 0 ? index + count : index;
}

// What `view` becomes by one more step whose result has the shape of `next`.
WeightView
extend(const AdaptedTensor& adapted, ViewStep step, const at::Tensor& next) {
  WeightView view = adapted.view();
  const auto& name = step.op.operator_name();
  const WeightLayout& layout = adapted.weight()->layout();
  using Form = WeightLayout::Form;
  const bool stack =
      view.is_matrix && layout.form == Form::stack && !view.matrix_of_stack;
  const bool matrix = view.is_matrix && !stack &&
      (layout.form == Form::matrix || layout.form == Form::table ||
       view.matrix_of_stack);
  if (stack && name.name != "aten::detach") {
    if (const auto index = taken_matrix(step, layout.count)) {
      view.matrix_of_stack = index;
      view.steps.push_back(std::move(step));
      return view;
    }
  }
  if (name.name == "aten::detach") {
    view.is_matrix = false;  // the factors must not get gradients
  } else if (
      (matrix || stack) && is_transpose(name, step.arguments, stack ? 3 : 2)) {
    view.transposed = !view.transposed;
  } else if (
      matrix && name.name == "aten::slice" && !view.transposed && !view.rows &&
      !layout.inputs_first && step.arguments[1].toInt() == 0 &&
      step.arguments[4].toInt() == 1) {
    const auto rows = adapted.size(0);
    const auto& start = step.arguments[2];
    auto begin = start.isNone() ? 0 : start.toInt();
    begin = std::clamp<std::int64_t>(begin < 0 ? begin + rows : begin, 0, rows);
    view.rows = {begin, begin + next.size(0)};
  } else {
    view.is_matrix = false;
  }
  view.steps.push_back(std::move(step));
  return view;
}

at::Tensor adapted_view(
    const AdaptedTensor& adapted,
    ViewStep step,
    const at::Tensor& shape) {
  WeightView view = extend(adapted, std::move(step), shape);
  return at::Tensor(c10::make_intrusive<AdaptedTensor>(
      adapted.weight(), adapted.owner(), std::move(view), shape));
}

// Puts adapted views in the place of a view operator's result. False when the
// operator made a copy this time (reshape may).
bool view(
    const c10::OperatorHandle& op,
    const AdaptedTensor& adapted,
    Stack* stack,
    std::size_t first) {
  Stack arguments(
      stack->begin() + static_cast<std::ptrdiff_t>(first), stack->end());
  const at::NoGradGuard no_grad;
  const at::Tensor base = adapted.replay(adapted.weight()->base());
  Stack shapes = arguments;
  shapes[0] = base;
  op.callBoxed(shapes);
  arguments[0] = c10::IValue();

  c10::IValue result;
  if (shapes.back().isTensor()) {
    const at::Tensor shape = shapes.back().toTensor();
    if (!shape.is_alias_of(base)) {
      return false;
    }
    result = adapted_view(adapted, {op, arguments, std::nullopt}, shape);
  } else {
    std::vector<at::Tensor> parts = shapes.back().toTensorVector();
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (!parts[i].is_alias_of(base)) {
        return false;
      }
      parts[i] = adapted_view(adapted, {op, arguments, i}, parts[i]);
    }
    result = std::move(parts);
  }
  stack->resize(first);
  stack->push_back(std::move(result));
  return true;
}

// A bias that F::linear adds to its result by itself. In a mixed batch each row
// has its own.
void give_rows_their_bias(const c10::FunctionSchema& schema, Stack* stack) {
  if (schema.name() != "aten::add" && schema.name() != "aten::add_") {
    return;
  }
  const std::size_t first = stack->size() - schema.arguments().size();
  const at::Tensor y = plain((*stack)[first].toTensor());
  const c10::IValue& other = (*stack)[first + 1];
  const auto* bias = other.isTensor() ? as_adapted(other.toTensor()) : nullptr;
  const MixedBatch* batch = bias ? bias->weight()->mixed_batch() : nullptr;
  if (!batch || bias->dim() != 1) {
    return;
  }
  const AdaptedWeight& weight = *bias->weight();
  const RowSplit rows =
      batch->split(y, weight.layer(), 1, weight.layout().positions_first);
  std::vector<at::Tensor> of_group;
  for (std::size_t g = 0; g < batch->groups().size(); ++g) {
    of_group.push_back(bias->replay(weight.effective_in_group(g)));
  }
  (*stack)[first + 1] = rows.by_row(of_group, y.dim());
}

// An adapted argument and the plain tensor that was written in its place.
struct Written {
  at::Tensor adapted;
  at::Tensor plain;
};

at::Tensor substitute(
    const at::Tensor& tensor,
    bool is_written,
    std::vector<Written>& written) {
  const AdaptedTensor* adapted = as_adapted(tensor);
  if (!adapted) {
    return tensor;
  }
  if (!is_written) {
    return adapted->read();
  }
  written.push_back({tensor, adapted->written()});
  return written.back().plain;
}

void substitute_all(
    const c10::FunctionSchema& schema,
    Stack* stack,
    std::size_t first,
    std::vector<Written>& written) {
  for (std::size_t i = first; i < stack->size(); ++i) {
    c10::IValue& value = (*stack)[i];
    const auto* alias = schema.arguments()[i - first].alias_info();
    const bool is_written = alias && alias->isWrite();
    if (value.isTensor()) {
      if (as_adapted(value.toTensor())) {
        value = substitute(value.toTensor(), is_written, written);
      }
    } else if (value.isTensorList()) {
      auto list = value.toTensorVector();
      for (auto& tensor : list) {
        tensor = substitute(tensor, is_written, written);
      }
      value = std::move(list);
    } else if (value.isList() && value.toListRef().size() > 0) {
      auto list = value.toList();  // Tensor?[]: index, index_put
      auto copy = list.copy();
      for (std::size_t j = 0; j < copy.size(); ++j) {
        const c10::IValue element = copy.get(j);
        if (element.isTensor() && as_adapted(element.toTensor())) {
          copy.set(j, substitute(element.toTensor(), is_written, written));
        }
      }
      value = std::move(copy);
    }
  }
}

// Whether an operator writes to a single tensor.
bool writes_once(const c10::FunctionSchema& schema, const Stack& arguments) {
  std::size_t tensors = 0;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const auto* alias = schema.arguments()[i].alias_info();
    if (alias && alias->isWrite()) {
      tensors += arguments[i].isTensor() ? 1 : 2;
    }
  }
  return tensors == 1;
}

// Runs an operator that writes to weights, leaving its results on the stack.
void write(
    const c10::OperatorHandle& op,
    Stack* stack,
    std::size_t first,
    const std::vector<Written>& written) {
  const Stack arguments(
      stack->begin() + static_cast<std::ptrdiff_t>(first), stack->end());
  if (!writes_once(op.schema(), arguments)) {
    for (const Written& w : written) {
      check_unchanged(op, *as_adapted(w.adapted));
    }
    op.callBoxed(stack);
    return;
  }
  const Written& w = written.front();
  const AdaptedTensor& adapted = *as_adapted(w.adapted);
  const auto run_on = [&](const at::Tensor& tensor) {
    stack->resize(first);
    for (const c10::IValue& value : arguments) {
      const bool is_it = value.isTensor() && value.toTensor().is_same(w.plain);
      stack->push_back(is_it ? c10::IValue(tensor) : value);
    }
    op.callBoxed(stack);
  };
  const auto give_result = [&] {
    stack->resize(first);
    stack->push_back(w.plain);
  };
  write_in_place({op, adapted, w.plain, run_on, give_result});
}

}  // namespace

void fallback(const c10::OperatorHandle& op, Stack* stack) {
  const auto& schema = op.schema();
  const std::size_t first = stack->size() - schema.arguments().size();
  if (is_view(schema) && (*stack)[first].isTensor()) {
    const at::Tensor self = (*stack)[first].toTensor();
    const AdaptedTensor* adapted = as_adapted(self);
    if (adapted && view(op, *adapted, stack, first)) {
      return;
    }
  }
  give_rows_their_bias(schema, stack);
  std::vector<Written> written;
  substitute_all(schema, stack, first, written);
  if (written.empty()) {
    op.callBoxed(stack);
    return;
  }
  write(op, stack, first, written);
  for (std::size_t i = first; i < stack->size(); ++i) {
    for (const Written& w : written) {
      if ((*stack)[i].isTensor() && (*stack)[i].toTensor().is_same(w.plain)) {
        (*stack)[i] = w.adapted;
      }
    }
  }
}

at::Tensor transpose_matrix(const at::Tensor& weight) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("aten::t", "");
  const AdaptedTensor* adapted = as_adapted(weight);
  const at::NoGradGuard no_grad;
  return adapted_view(
      *adapted,
      {op, {c10::IValue()}, std::nullopt},
      adapted->replay(adapted->weight()->base()).t());
}

}  // namespace peft::detail
