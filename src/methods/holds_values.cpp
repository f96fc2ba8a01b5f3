// SPDX-License-Identifier: Apache-2.0
#include "methods/holds_values.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "base/text.h"

namespace peft::detail {
namespace {

// int64 holds no more than these; what lies beyond cannot be asked about it.
at::Tensor fit_int64(const at::Tensor& reals) {
  return reals.ge(-0x1p63).logical_and(reals.lt(0x1p63));
}

bool reals_hold(at::ScalarType dtype, const at::Tensor& values) {
  const at::Tensor given = values.to(at::kLong);
  const at::Tensor reals = given.to(dtype).to(at::kDouble);
  const at::Tensor inside = fit_int64(reals);
  at::Tensor same =
      at::where(inside, reals, at::zeros_like(reals)).to(at::kLong).eq(given);
  same = same.logical_and(inside);
  if (values.scalar_type() == at::kUInt64) {
    same = same.logical_and(given.ge(0));  // those that int64 holds
  }
  return same.all().item<bool>();
}

bool integers_hold(at::ScalarType dtype, const at::Tensor& values) {
  at::Tensor whole = values;
  if (values.is_floating_point()) {
    const at::Tensor reals = values.to(at::kDouble);
    const at::Tensor inside = fit_int64(reals);
    whole = at::where(inside, reals, at::zeros_like(reals)).to(at::kLong);
    const at::Tensor same = whole.to(at::kDouble).eq(reals);
    if (!same.logical_and(inside).all().item<bool>()) {
      return false;
    }
  }
  whole = whole.to(at::kLong);
  return whole.to(dtype).to(at::kLong).eq(whole).all().item<bool>();
}

}  // namespace

bool holds_values(at::ScalarType dtype, const at::Tensor& values) {
  const at::ScalarType given = values.scalar_type();
  if (given == dtype || values.numel() == 0 ||
      (at::isFloatingType(given) && at::isFloatingType(dtype))) {
    return true;
  }
  if (at::isComplexType(given) || at::isComplexType(dtype)) {
    return at::isComplexType(dtype);
  }
  return at::isFloatingType(dtype) ? reals_hold(dtype, values)
                                   : integers_hold(dtype, values);
}

std::string cannot_hold(at::ScalarType dtype, const at::Tensor& values) {
  return concat(
      "given ",
      values.dtype(),
      ", whose values ",
      c10::scalarTypeToTypeMeta(dtype),
      " cannot hold exactly");
}

}  // namespace peft::detail
