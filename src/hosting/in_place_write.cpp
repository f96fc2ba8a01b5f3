// SPDX-License-Identifier: Apache-2.0
#include "hosting/in_place_write.h"

#include <algorithm>
#include <array>
#include <string_view>

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include "base/text.h"
#include "methods/squared_norms.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

using at::Tensor;
using Fresh = WeightMask::Fresh;

constexpr std::array<std::string_view, 8> draws = {
    "aten::bernoulli_",
    "aten::cauchy_",
    "aten::exponential_",
    "aten::geometric_",
    "aten::log_normal_",
    "aten::normal_",
    "aten::random_",
    "aten::uniform_"};

constexpr std::array<std::string_view, 3> gives = {
    "aten::copy_",
    "aten::fill_",
    "aten::zero_"};

template <class Names>
bool is_one_of(const c10::OperatorHandle& op, const Names& names) {
  const auto& name = op.operator_name().name;
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_whole(const InPlaceWrite& write) {
  return write.written.numel() == write.adapted.weight()->base().numel();
}

[[noreturn]] void refuse(
    const c10::OperatorHandle& op,
    const AdaptedTensor& adapted) {
  throw Error(
      ErrorKind::unsupported,
      concat(
          "'",
          adapted.weight()->layer(),
          "': ",
          op.operator_name().name,
          " changes the values of an adapted weight in place, which would "
          "reach "
          "the base and not what its adapters add; compute the changed weight "
          "out of place and use that (F::linear(x, weight * scale)), or write "
          "to peft::base_weight(weight) to change the base alone. Zeros in a "
          "part of the weight (a mask), sums, and writing all of it anew "
          "are understood"));
}

// What an operator does to each value, seen by running it on two copies.
struct Seen {
  Tensor result;
  Tensor overwritten;  // whatever was there before
  Tensor kept;
  Tensor added_to;  // kept too, but for what was added
};

// The distance between 1 and the next value.
double step_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return 0x1p-52;
    case at::kHalf:
      return 0x1p-10;
    case at::kBFloat16:
      return 0x1p-7;
    default:
      return 0x1p-23;
  }
}

Seen look_at(const InPlaceWrite& write) {
  const at::NoGradGuard no_grad;
  const Tensor before = write.written.detach();
  const Tensor one = before.clone();
  const Tensor offset = before.abs().nan_to_num(0, 0, 0).max() + 1;
  const Tensor other = before + offset;
  const Tensor start = other.clone();
  write.run_on(one);
  write.run_on(other);
  if (one.sizes() != before.sizes()) {
    refuse(write.op, write.adapted);
  }
  const Tensor error =
      (exact(other) - exact(one)) - (exact(start) - exact(before));
  const Tensor size = exact(one).abs() + exact(other).abs() + exact(offset);
  return {
      one,
      (one == other) | (one.isnan() & other.isnan()),
      (one == before) & (other == start),
      error.abs() <= size * 2 * step_of(before.scalar_type())};
}

// Zeros among what was overwritten are a mask from now on, other values end
// what was one before.
void note_zeros(
    const AdaptedTensor& adapted,
    const Tensor& overwritten,
    const Tensor& is_zero) {
  const at::NoGradGuard no_grad;
  const AdaptedWeight& weight = *adapted.weight();
  const Tensor now = weight.mask().zeroed();
  if (!now.defined() && !(overwritten & is_zero).any().item<bool>()) {
    return;
  }
  const Tensor& base = weight.base();
  Tensor next = now.defined()
      ? now.to(base.device(), at::kBool, /*non_blocking=*/false, /*copy=*/true)
      : at::zeros_like(base, base.options().dtype(at::kBool));
  Tensor part = adapted.replay(next);
  part.copy_(at::where(overwritten, is_zero, part));
  weight.mask().set_zeroed(next.any().item<bool>() ? next : Tensor());
}

}  // namespace

std::optional<Tensor> reading_of(const AdaptedTensor& adapted) {
  try {
    return adapted.read();
  } catch (const Error&) {
    return std::nullopt;
  }
}

bool write_masked_reading(const AdaptedTensor& adapted, const Tensor& data) {
  if (adapted.weight()->change() == WeightChange::none) {
    return false;
  }
  const at::NoGradGuard no_grad;
  Tensor written = adapted.written();
  const auto read = reading_of(adapted);
  if (!read || data.sizes() != written.sizes()) {
    return false;
  }
  const Tensor reading = read->to(data.device(), data.scalar_type());
  const Tensor is_same = data == reading;
  const Tensor is_zero = data == 0;
  const bool is_reading = (is_same | is_zero).all().item<bool>() &&
      (is_same & ~is_zero &
       (reading != written.to(data.device(), data.scalar_type())))
          .any()
          .item<bool>();
  if (!is_reading) {
    return false;
  }
  const Tensor zeros = (is_zero & ~is_same).to(written.device());
  note_zeros(adapted, zeros, zeros);
  written.masked_fill_(zeros, 0);
  return true;
}

namespace {

// `result` is what the operator would make of the whole weight.
void write_whole(const InPlaceWrite& write, const Tensor& result) {
  if (write_masked_reading(write.adapted, result)) {
    write.give_result();
    return;
  }
  write.run_on(write.written);
  write.adapted.weight()->mask().written_anew(Fresh::given);
}

Tensor run_on_copy(const InPlaceWrite& write) {
  const at::NoGradGuard no_grad;
  const Tensor copy = write.written.detach().clone();
  write.run_on(copy);
  return copy;
}

void write_in_part(const InPlaceWrite& write, WeightChange change) {
  const WeightMask& mask = write.adapted.weight()->mask();
  const Seen seen = look_at(write);
  if (seen.overwritten.all().item<bool>() && is_whole(write)) {
    write_whole(write, seen.result);
    return;
  }
  if (mask.fresh() == Fresh::no && change != WeightChange::none) {
    const Tensor fine = seen.overwritten |
        (change == WeightChange::sum ? seen.added_to : seen.kept);
    if (!fine.all().item<bool>()) {
      refuse(write.op, write.adapted);
    }
  }
  if (mask.fresh() != Fresh::drawn) {
    note_zeros(write.adapted, seen.overwritten, seen.result == 0);
  }
  write.run_on(write.written);
}

}  // namespace

void check_unchanged(
    const c10::OperatorHandle& op,
    const AdaptedTensor& adapted) {
  if (adapted.weight()->change() != WeightChange::none) {
    refuse(op, adapted);
  }
}

void write_in_place(const InPlaceWrite& write) {
  WeightMask& mask = write.adapted.weight()->mask();
  const bool draw = is_one_of(write.op, draws);
  if (draw && is_whole(write)) {
    write.run_on(write.written);
    mask.written_anew(Fresh::drawn);
    return;
  }
  const WeightChange change = write.adapted.weight()->change();
  if (is_one_of(write.op, gives) && is_whole(write)) {
    if (change == WeightChange::none) {
      write.run_on(write.written);
      mask.written_anew(Fresh::given);
    } else {
      write_whole(write, run_on_copy(write));
    }
    return;
  }
  const bool is_seen = change != WeightChange::none || mask.zeroed().defined();
  if (!is_seen || write.written.numel() == 0) {
    write.run_on(write.written);
    return;
  }
  if (draw) {
    const Tensor nowhere =
        at::zeros_like(write.written.detach(), at::TensorOptions(at::kBool));
    note_zeros(write.adapted, nowhere.logical_not(), nowhere);
    write.run_on(write.written);
  } else if (write.op.hasTag(at::Tag::nondeterministic_seeded)) {
    refuse(write.op, write.adapted);  // it cannot be run on copies first
  } else {
    write_in_part(write, change);
  }
}

}  // namespace peft::detail
