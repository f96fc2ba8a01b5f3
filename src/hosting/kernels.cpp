// SPDX-License-Identifier: Apache-2.0
// What happens when an operator meets an adapted tensor.
//
// The operators that read weights (linear and the products it is made of,
// embedding, convolutions) run plainly on the base and add the adapters with
// their factors. Every other operator goes through fallback.cpp.
#include <torch/library.h>

#include <ATen/Functions.h>

#include "hosting/adapted_tensor.h"
#include "hosting/apply_adapters.h"
#include "hosting/dispatch_key.h"
#include "hosting/fallback.h"
#include "hosting/program_layers.h"
#include "hosting/stack_product.h"
#include "hosting/weight_readings.h"

namespace peft::detail {
namespace {

using at::IntArrayRef;
using at::Tensor;
using Form = WeightLayout::Form;

bool reads_positions_first(const Tensor& weight) {
  return as_adapted(weight)->weight()->layout().positions_first;
}

// GPT-2's Conv1D, whose weight has the inputs first, is addmm on a matrix. (A
// Linear's addmm is what F::linear does with a matrix it is given.)
bool is_flattened_for(const Tensor& weight) {
  return as_adapted(weight)->weight()->layout().inputs_first;
}

Tensor linear(
    const Tensor& input,
    const Tensor& weight,
    const std::optional<Tensor>& bias) {
  const Tensor x = plain(input);
  if (const auto map = as_linear_map(weight, false)) {
    const auto run = [](const Tensor& in, const Tensor& w, const Tensor& b) {
      return at::linear(in, w, b);
    };
    return apply_adapters(
        LinearCall{run, reads_positions_first(weight)}, *map, bias, x);
  }
  return at::linear(x, plain(weight), plain(bias));
}

Tensor bmm(const Tensor& self, const Tensor& mat2) {
  const Tensor x = plain(self);
  if (const auto stack = as_stack(mat2)) {
    return multiply_stack(
        [&](const Tensor& in) { return at::bmm(in, stack->base); },
        x,
        stack->steps,
        stack->base.size(0));
  }
  return at::bmm(x, plain(mat2));
}

Tensor matmul(const Tensor& self, const Tensor& other) {
  const Tensor x = plain(self);
  if (const auto stack = as_stack(other)) {
    return multiply_stack(
        [&](const Tensor& in) { return at::matmul(in, stack->base); },
        x,
        stack->steps,
        stack->base.size(0));
  }
  if (const auto map = as_linear_map(other, true)) {
    const auto run = [](const Tensor& in, const Tensor& w, const Tensor&) {
      return at::matmul(in, w);
    };
    return apply_adapters(
        LinearCall{run, reads_positions_first(other)}, *map, std::nullopt, x);
  }
  return at::matmul(x, plain(other));
}

Tensor mm(const Tensor& self, const Tensor& mat2) {
  const Tensor x = plain(self);
  if (const auto map = as_linear_map(mat2, true)) {
    const auto run = [](const Tensor& in, const Tensor& w, const Tensor&) {
      return at::mm(in, w);
    };
    return apply_adapters(
        LinearCall{run, reads_positions_first(mat2)}, *map, std::nullopt, x);
  }
  return at::mm(x, plain(mat2));
}

Tensor addmm(
    const Tensor& self,
    const Tensor& mat1,
    const Tensor& mat2,
    const at::Scalar& beta,
    const at::Scalar& alpha) {
  const Tensor x = plain(mat1);
  const auto map = as_linear_map(mat2, true);
  if (!map) {
    return at::addmm(plain(self), x, plain(mat2), beta, alpha);
  }
  const auto run = [&](const Tensor& in, const Tensor& w, const Tensor& b) {
    return b.defined() ? at::addmm(b, in, w, beta, alpha)
                       : at::mm(in, w) * alpha;
  };
  return apply_adapters(
      LinearCall{
          run,
          reads_positions_first(mat2),
          is_flattened_for(mat2),
          beta.toDouble(),
          alpha.toDouble()},
      *map,
      self,
      x);
}

Tensor embedding(
    const Tensor& weight,
    const Tensor& indices,
    int64_t padding_idx,
    bool scale_grad_by_freq,
    bool sparse) {
  const Tensor i = plain(indices);
  if (const auto table = as_whole(weight, Form::table)) {
    return apply_adapters(
        Lookup{padding_idx, scale_grad_by_freq, sparse}, *table, i);
  }
  return at::embedding(
      plain(weight), i, padding_idx, scale_grad_by_freq, sparse);
}

void renorm_rows(
    const Steps& steps,
    const Tensor& indices,
    double max_norm,
    double norm_type) {
  for (const Step& step : steps) {
    if (const auto* low_rank = std::get_if<LowRankStep>(&step)) {
      Tensor rows = low_rank->form.A.t();
      at::embedding_renorm_(rows, indices, max_norm, norm_type);
    } else if (const auto* replaced = std::get_if<Rows>(&step)) {
      const at::NoGradGuard no_grad;
      const Tensor seen = at::isin(replaced->index[0], indices);
      Tensor rows = replaced->values;
      at::embedding_renorm_(
          rows, replaced->index[1].index({seen}), max_norm, norm_type);
    }
  }
}

// max_norm shrinks the rows in place before the lookup: the base's, and like
// PEFT each active adapter's own.
Tensor& embedding_renorm_(
    Tensor& self,
    const Tensor& indices,
    double max_norm,
    double norm_type) {
  const AdaptedTensor* adapted = as_adapted(self);
  if (!adapted) {
    return at::embedding_renorm_(self, plain(indices), max_norm, norm_type);
  }
  Tensor written = adapted->written();
  at::embedding_renorm_(written, indices, max_norm, norm_type);
  if (const auto table = as_whole(self, Form::table)) {
    for (const CheapReading& part : table->parts) {
      renorm_rows(part.steps, indices, max_norm, norm_type);
    }
  }
  return self;
}

// `run(x, weight, bias, groups)` is one of libtorch's convolutions with its
// stride, padding and dilation bound.
template <class Run>
Tensor convolve(
    const Tensor& input,
    const Tensor& weight,
    const std::optional<Tensor>& bias,
    int64_t groups,
    const Run& run) {
  const Tensor x = plain(input);
  if (const auto kernel = as_whole(weight, Form::kernel)) {
    return apply_adapters(
        Convolution{run, groups, weight.size(1) * groups}, *kernel, bias, x);
  }
  return run(x, plain(weight), plain(bias), groups);
}

// Padding is IntArrayRef or a word ("same").
#define PEFT_CONVOLUTION(NAME, CONV, PADDING)                 \
  Tensor NAME(                                                \
      const Tensor& input,                                    \
      const Tensor& weight,                                   \
      const std::optional<Tensor>& bias,                      \
      IntArrayRef stride,                                     \
      PADDING padding,                                        \
      IntArrayRef dilation,                                   \
      int64_t groups) {                                       \
    return convolve(                                          \
        input,                                                \
        weight,                                               \
        bias,                                                 \
        groups,                                               \
        [&](const Tensor& x,                                  \
            const Tensor& w,                                  \
            const std::optional<Tensor>& b,                   \
            int64_t g) {                                      \
          return CONV(x, w, b, stride, padding, dilation, g); \
        });                                                   \
  }
PEFT_CONVOLUTION(conv1d, at::conv1d, IntArrayRef)
PEFT_CONVOLUTION(conv2d, at::conv2d, IntArrayRef)
PEFT_CONVOLUTION(conv3d, at::conv3d, IntArrayRef)
PEFT_CONVOLUTION(conv1d_padding, at::conv1d, std::string_view)
PEFT_CONVOLUTION(conv2d_padding, at::conv2d, std::string_view)
PEFT_CONVOLUTION(conv3d_padding, at::conv3d, std::string_view)
#undef PEFT_CONVOLUTION

Tensor convolution(
    const Tensor& input,
    const Tensor& weight,
    const std::optional<Tensor>& bias,
    IntArrayRef stride,
    IntArrayRef padding,
    IntArrayRef dilation,
    bool transposed,
    IntArrayRef output_padding,
    int64_t groups) {
  const auto run = [&](const Tensor& x,
                       const Tensor& w,
                       const std::optional<Tensor>& b,
                       int64_t g) {
    return at::convolution(
        x, w, b, stride, padding, dilation, transposed, output_padding, g);
  };
  if (transposed) {  // reads the weight the other way round
    return run(plain(input), plain(weight), plain(bias), groups);
  }
  return convolve(input, weight, bias, groups, run);
}

// What set_data asks first. It is about the kind of tensor, and an effective
// weight would be formed for nothing (a convolution in groups may have none).
bool has_compatible_shallow_copy_type(const Tensor& self, const Tensor& from) {
  const auto under = [](const Tensor& tensor) {
    const AdaptedTensor* adapted = as_adapted(tensor);
    return adapted ? adapted->replay(adapted->weight()->base()) : tensor;
  };
  return at::_has_compatible_shallow_copy_type(under(self), under(from));
}

// What traced TorchScript calls.
Tensor traced_convolution(
    const Tensor& input,
    const Tensor& weight,
    const std::optional<Tensor>& bias,
    IntArrayRef stride,
    IntArrayRef padding,
    IntArrayRef dilation,
    bool transposed,
    IntArrayRef output_padding,
    int64_t groups,
    bool /*benchmark*/,
    bool /*deterministic*/,
    bool /*cudnn_enabled*/,
    bool /*allow_tf32*/) {
  return detail::convolution(
      input,
      weight,
      bias,
      stride,
      padding,
      dilation,
      transposed,
      output_padding,
      groups);
}

}  // namespace

void register_kernels() {
  using torch::Library;
  static Library any(Library::IMPL, "_", adapter_key, __FILE__, __LINE__);
  static Library aten(Library::IMPL, "aten", adapter_key, __FILE__, __LINE__);
  static const bool registered = [] {
    any.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
    aten.impl("t", &transpose_matrix);
    aten.impl("linear", &linear);
    aten.impl("matmul", &matmul);
    aten.impl("mm", &mm);
    aten.impl("bmm", &bmm);
    aten.impl("addmm", &addmm);
    aten.impl("embedding", &embedding);
    aten.impl("embedding_renorm_", &embedding_renorm_);
    aten.impl("conv1d", &conv1d);
    aten.impl("conv2d", &conv2d);
    aten.impl("conv3d", &conv3d);
    aten.impl("conv1d.padding", &conv1d_padding);
    aten.impl("conv2d.padding", &conv2d_padding);
    aten.impl("conv3d.padding", &conv3d_padding);
    aten.impl("convolution", &convolution);
    aten.impl("_convolution", &traced_convolution);
    aten.impl(
        "_has_compatible_shallow_copy_type", &has_compatible_shallow_copy_type);
    graph::set_stand_on(&stand_on_value);
    return true;
  }();
  (void)registered;
}

}  // namespace peft::detail
