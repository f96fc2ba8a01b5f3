// SPDX-License-Identifier: Apache-2.0
// How LoRA's factors start (init_lora_weights), for a weight W [out, in] with
// strength s. All computed in float32 or better.
//
// true              A uniform within 1/sqrt(in), B = 0
// false             both uniform, as nn.Linear starts: not the identity
// "gaussian"        A ~ N(0, 1/r), B = 0
// "orthogonal"      Q = qr(randn(r, r)), A and B in the spans of its even and
//                   odd rows, over 10: B A = 0         (r even)
// "olora"           W = Q R; B = Q_r, A = R_r          arXiv 2406.01775
// "pissa"           W = U S V'; B = U_r sqrt(S_r / s), A = sqrt(S_r / s) V_r'
//                                                      arXiv 2404.02948
// "pissa_niter_N"   the same by N steps of subspace iteration, from a fixed
//                   start: one W always gives the same factors
// "mica"            B = the last r columns of U, frozen, A = 0
//
// olora and pissa take s B A out of W, which the adapter gives back: W' = W.
// Tables (embeddings) start with A = 0 and B ~ N(0, 1) whatever is chosen, as
// in PEFT; only false and "mica" mean something to them.
#pragma once

#include "base/mistakes.h"
#include "methods/method.h"
#include "peft/adapter_config.h"

namespace peft::detail {

/// Adds a mistake when the scheme cannot start a pair of this shape.
void check_initialisation(
    const InitChoice& init,
    std::int64_t r,
    const WeightLayout& layout,
    const std::string& where,
    Mistakes& mistakes);

/// "mica": B is never trained.
bool starts_with_frozen_B(const InitChoice& init);

/// Fills A and B. `on.parameters` is not read.
void initialise_factors(
    const InitChoice& init,
    const at::Tensor& A,
    const at::Tensor& B,
    const Application& on,
    double strength);

}  // namespace peft::detail
