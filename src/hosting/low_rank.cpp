// SPDX-License-Identifier: Apache-2.0
#include "hosting/low_rank.h"

#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>

namespace peft::detail {
namespace {

// x as the factor wants it: its dtype (autocast casts for itself), dropped out.
at::Tensor input_for(const at::Tensor& x, const LowRankTerm& term) {
  const bool autocast = at::autocast::is_autocast_enabled(x.device().type());
  const at::Tensor cast = autocast ? x : x.to(term.A.scalar_type());
  return term.dropout > 0 ? at::dropout(cast, term.dropout, true) : cast;
}

}  // namespace

at::Tensor
add_linear(at::Tensor y, const at::Tensor& x, const LowRankTerms& terms) {
  const auto dtype = y.scalar_type();
  for (const LowRankTerm& term : terms) {
    const at::Tensor s = at::linear(input_for(x, term), term.A);
    if (s.dim() < 2 || y.size(-1) == 0 || s.scalar_type() != y.scalar_type() ||
        term.B.scalar_type() != y.scalar_type()) {
      y = at::add(y, at::linear(s, term.B), term.scale);
      continue;
    }
    // One product straight into the sum: no second buffer of y's size, and
    // B's gradient comes out of the fast order (s' g)'.
    y = at::addmm(
            y.reshape({-1, y.size(-1)}),
            s.reshape({-1, s.size(-1)}),
            term.B.t(),
            1,
            term.scale)
            .view(y.sizes());
  }
  return y.to(dtype);
}

at::Tensor add_embedding(
    at::Tensor y,
    const at::Tensor& indices,
    const LowRankTerms& terms,
    const Lookup& lookup) {
  const auto dtype = y.scalar_type();
  for (const LowRankTerm& term : terms) {
    const at::Tensor rows = at::embedding(
        term.A.t(),
        indices,
        lookup.padding_idx,
        lookup.scale_grad_by_freq,
        lookup.sparse);
    y = at::add(y, at::linear(rows, term.B), term.scale);
  }
  return y.to(dtype);
}

at::Tensor add_convolution(
    at::Tensor y,
    const at::Tensor& x,
    const LowRankTerms& terms,
    std::int64_t groups,
    const std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>&
        convolve) {
  const auto dtype = y.scalar_type();
  for (const LowRankTerm& term : terms) {
    at::Tensor s = convolve(input_for(x, term), term.A);
    const std::size_t window = static_cast<std::size_t>(term.B.dim() - 2);
    const bool batched = s.dim() == term.B.dim();
    const std::vector<std::int64_t> ones(window, 1);
    const std::vector<std::int64_t> zeros(window, 0);
    const at::Tensor product = at::convolution(
        batched ? s : s.unsqueeze(0),
        term.B,
        {},
        ones,
        zeros,
        ones,
        /*transposed=*/false,
        zeros,
        groups);
    y = at::add(y, batched ? product : product.squeeze(0), term.scale);
  }
  return y.to(dtype);
}

}  // namespace peft::detail
