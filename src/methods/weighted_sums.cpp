// SPDX-License-Identifier: Apache-2.0
#include "methods/weighted_sums.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/bernoulli.h>
#include <ATen/ops/full.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>

#include "base/text.h"
#include "methods/squared_norms.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

using Tensors = std::vector<at::Tensor>;
using Weights = std::vector<double>;

// Broadcasting would take a rank of 1 for any other.
void check_shapes(const Tensors& tensors, const Weights& weights) {
  TORCH_INTERNAL_ASSERT(!tensors.empty() && tensors.size() == weights.size());
  for (const at::Tensor& tensor : tensors) {
    TORCH_INTERNAL_ASSERT(tensor.sizes() == tensors.front().sizes());
  }
}

void check_density(double density) {
  if (!(density >= 0)) {  // NaN too
    throw Error(
        ErrorKind::config,
        concat(
            "density = ",
            density,
            "; it is the share of entries to keep, between 0 and 1"));
  }
}

at::Tensor keep_largest(const at::Tensor& tensor, double density) {
  if (density >= 1) {
    return tensor;
  }
  const at::Tensor entries = tensor.reshape(-1);
  const auto kept =
      static_cast<std::int64_t>(density * static_cast<double>(entries.numel()));
  const at::Tensor places = std::get<1>(at::topk(
      entries.abs(), kept, /*dim=*/0, /*largest=*/true, /*sorted=*/false));
  return at::zeros_like(entries)
      .scatter_(0, places, entries.gather(0, places))
      .view(tensor.sizes());
}

at::Tensor keep_random(
    const at::Tensor& tensor,
    double density,
    const std::optional<at::Generator>& random) {
  if (density >= 1) {
    return tensor;
  }
  if (density == 0) {  // not 0 / 0
    return at::zeros_like(tensor);
  }
  const auto device = random ? random->device() : tensor.device();
  const at::Tensor kept = at::bernoulli(
      at::full(tensor.sizes(), density, tensor.options().device(device)),
      random);
  return tensor * kept.to(tensor.device()) / density;
}

Tensors largest_of(Tensors tensors, double density) {
  check_density(density);
  for (at::Tensor& tensor : tensors) {
    tensor = keep_largest(exact(tensor), density);
  }
  return tensors;
}

Tensors random_of(
    Tensors tensors,
    double density,
    const std::optional<at::Generator>& random) {
  check_density(density);
  for (at::Tensor& tensor : tensors) {
    tensor = keep_random(exact(tensor), density, random);
  }
  return tensors;
}

/// Where plus is elected.
at::Tensor elect_plus(const Tensors& tensors, MajoritySign majority) {
  const auto votes = [&](const at::Tensor& tensor) {
    return majority == MajoritySign::total ? tensor : tensor.sign();
  };
  at::Tensor sum = votes(tensors.front());
  for (std::size_t i = 1; i < tensors.size(); ++i) {
    sum = sum + votes(tensors[i]);
  }
  return sum >= 0;
}

at::Tensor mean_of_elected(
    const Tensors& tensors,
    const Weights& weights,
    MajoritySign majority) {
  const at::Tensor plus = elect_plus(tensors, majority);
  at::Tensor sum = at::zeros_like(tensors.front());
  at::Tensor count = at::zeros_like(sum);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor& tensor = tensors[i];
    const at::Tensor agrees = at::where(plus, tensor > 0, tensor < 0);
    sum = at::add(sum, at::where(agrees, tensor, 0), weights[i]);
    count.add_(agrees);
  }
  return sum / count.clamp_min(1);
}

}  // namespace

at::Tensor task_arithmetic(const Tensors& tensors, const Weights& weights) {
  check_shapes(tensors, weights);
  const at::NoGradGuard no_grad;
  at::Tensor sum = exact(tensors.front()) * weights.front();
  for (std::size_t i = 1; i < tensors.size(); ++i) {
    sum = at::add(sum, exact(tensors[i]), weights[i]);
  }
  return sum;
}

at::Tensor
magnitude_prune(Tensors tensors, const Weights& weights, double density) {
  const at::NoGradGuard no_grad;
  return task_arithmetic(largest_of(std::move(tensors), density), weights);
}

at::Tensor ties(
    Tensors tensors,
    const Weights& weights,
    double density,
    MajoritySign majority) {
  check_shapes(tensors, weights);
  const at::NoGradGuard no_grad;
  return mean_of_elected(
      largest_of(std::move(tensors), density), weights, majority);
}

at::Tensor dare_linear(
    Tensors tensors,
    const Weights& weights,
    double density,
    const std::optional<at::Generator>& random) {
  const at::NoGradGuard no_grad;
  return task_arithmetic(
      random_of(std::move(tensors), density, random), weights);
}

at::Tensor dare_ties(
    Tensors tensors,
    const Weights& weights,
    double density,
    MajoritySign majority,
    const std::optional<at::Generator>& random) {
  check_shapes(tensors, weights);
  const at::NoGradGuard no_grad;
  return mean_of_elected(
      random_of(std::move(tensors), density, random), weights, majority);
}

}  // namespace peft::detail
