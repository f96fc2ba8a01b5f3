// SPDX-License-Identifier: Apache-2.0
#include "methods/factor_limits.h"

#include <algorithm>
#include <cmath>

#include "base/text.h"

namespace peft::detail {

bool check_factors(
    std::int64_t r,
    double strength,
    const WeightLayout& layout,
    const std::string& where,
    Mistakes& mistakes) {
  constexpr double most = 3.38e38;      // of float32, and of bfloat16 too
  if (!(std::abs(strength) <= most)) {  // NaN fails too
    mistakes.add(
        ErrorKind::config,
        concat(
            where,
            ": lora_alpha with r = ",
            r,
            " makes a strength of ",
            strength,
            ", more than float32 can hold; lower lora_alpha"));
  }
  std::int64_t reads = layout.inputs;
  for (const auto size : layout.window) {
    reads *= size;
  }
  // In bytes of the widest dtype.
  std::int64_t bytes = sizeof(double);
  bool overflows = false;
  for (const std::int64_t factor :
       {r, layout.count, std::max(reads, layout.outputs)}) {
    overflows |= __builtin_mul_overflow(
        bytes, std::max<std::int64_t>(factor, 1), &bytes);
  }
  if (overflows) {
    mistakes.add(
        ErrorKind::config,
        concat(
            where,
            ": factors of rank ",
            r,
            " on ",
            layout.describe(),
            " are larger than any memory; lower the rank (r, rank_pattern, or "
            "init_r)"));
  }
  return !overflows;
}

void check_strength(
    double strength,
    at::ScalarType dtype,
    const std::string& where,
    Mistakes& mistakes) {
  constexpr double most = 65504;  // of float16
  if (dtype == at::kHalf && std::abs(strength) > most) {
    mistakes.add(
        ErrorKind::config,
        concat(
            where,
            ": lora_alpha makes a strength of ",
            strength,
            ", more than its float16 can hold; lower lora_alpha"));
  }
}

}  // namespace peft::detail
