// SPDX-License-Identifier: Apache-2.0
#include "methods/incremental_pca.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/vstack.h>

#include "base/text.h"
#include "methods/low_rank_svd.h"
#include "peft/error.h"

namespace peft::detail {

void IncrementalPca::check(const at::Tensor& rows) const {
  const auto least = [&] { return std::min(rows.size(0), rows.size(1)); };
  if (rows.dim() != 2 || rows.scalar_type() != at::kFloat || least() < count_) {
    throw Error(
        ErrorKind::shape,
        concat(
            "incremental PCA: ",
            count_,
            " components need at least as many rows and features in float32, "
            "found ",
            rows.scalar_type(),
            " ",
            rows.sizes()));
  }
  if (fitted() && rows.size(1) != components_.size(1)) {
    throw Error(
        ErrorKind::shape,
        concat(
            "incremental PCA: the rows before had ",
            components_.size(1),
            " features, these have ",
            rows.size(1)));
  }
}

// Youngs and Cramer's update, with the correction for rounding that
// scikit-learn makes, in float64.
void IncrementalPca::take_moments(const at::Tensor& rows) {
  const auto n = static_cast<double>(rows.size(0));
  const double all = rows_ + n;
  const at::Tensor sum = rows.sum(0, /*keepdim=*/false, at::kDouble);
  at::Tensor centred = rows - sum / n;
  const at::Tensor correction = centred.sum(0).square();
  const at::Tensor spread =
      centred.square_().sum(0).sub_(correction / n);  // not divided by n
  if (!fitted()) {
    mean_ = sum / all;
    variance_ = spread / all;
    return;
  }
  const at::Tensor sum_before = mean_ * rows_;
  const double ratio = rows_ / n;
  const at::Tensor apart = (sum_before / ratio - sum).square();
  mean_ = (sum_before + sum) / all;
  variance_ = (variance_ * rows_ + spread + apart * (ratio / all)) / all;
}

void IncrementalPca::fit(const at::Tensor& rows) {
  check(rows);
  const at::NoGradGuard no_grad;
  const auto n = static_cast<double>(rows.size(0));
  const at::Tensor mean_before = mean_;
  take_moments(rows);
  at::Tensor X = rows.clone();
  if (fitted()) {
    const at::Tensor mean = X.mean(0);
    // libtorch's root, as in PEFT: now and then the last bit is another.
    const at::Tensor factor =
        at::scalar_tensor(
            rows_ / (rows_ + n) * n, X.options().dtype(at::kDouble))
            .sqrt();
    X = at::vstack(
        {singular_values_.unsqueeze(1) * components_,
         X.sub_(mean),
         (mean_before - mean) * factor});
  } else {
    X.sub_(mean_);
  }
  rows_ += n;

  const Svd svd = low_rank_svd(X, /*q=*/2 * count_, /*steps=*/4, /*seed=*/42);
  const at::Tensor largest = svd.V.abs().argmax(1, /*keepdim=*/true);
  const at::Tensor flipped = svd.V * svd.V.gather(1, largest).sign();
  const at::Tensor ratio = svd.S.square() / (variance_ * rows_).sum();
  components_ = flipped.slice(0, 0, count_);
  singular_values_ = svd.S.slice(0, 0, count_);
  ratio_ = ratio.slice(0, 0, count_);
}

}  // namespace peft::detail
