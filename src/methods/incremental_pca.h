// SPDX-License-Identifier: Apache-2.0
// Principal components of rows that come batch by batch (Ross et al. 2008, as
// in scikit-learn and in PEFT, where EVA uses it). Of a batch X of n rows with
// mean m, after N rows with mean M and components diag(S) V:
//
//   diag(S) V  <-  the largest singular values of [ diag(S) V
//                                                   X - m
//                                                   sqrt(N n / (N + n)) (M - m)
//                                                   ]
//
// taken by low_rank_svd with q = 2 components, 4 steps and seed 42. Each row of
// V has the sign that makes its largest entry positive.
#pragma once

#include <ATen/core/Tensor.h>

namespace peft::detail {

class IncrementalPca {
 public:
  explicit IncrementalPca(std::int64_t components) : count_(components) {}

  /// `rows` is [n, features], float32, with both n and features at least the
  /// number of components. Throws Error (shape) for others.
  void fit(const at::Tensor& rows);
  bool fitted() const { return components_.defined(); }

  // Of the rows so far; undefined before the first fit. As in PEFT, float32
  // after one fit and float64 after more.

  /// [components, features]
  const at::Tensor& components() const { return components_; }
  /// [components]
  const at::Tensor& singular_values() const { return singular_values_; }
  /// [components]: shares of the rows' whole variance; NaN if that is 0.
  const at::Tensor& explained_variance_ratio() const { return ratio_; }

 private:
  void check(const at::Tensor& rows) const;
  void take_moments(const at::Tensor& rows);

  std::int64_t count_;
  double rows_ = 0;
  at::Tensor mean_;      // [features], float64
  at::Tensor variance_;  // [features], float64
  at::Tensor components_;
  at::Tensor singular_values_;
  at::Tensor ratio_;
};

}  // namespace peft::detail
