// SPDX-License-Identifier: Apache-2.0
// trainable_token_indices: W' = W with some of its rows replaced by trained
// ones; the other rows get no gradient from it.
//
// Key: token_adapter.trainable_tokens_delta [tokens, features], the rows
// themselves in the config's order (PEFT's name says delta). They start as W's.
#pragma once

#include <memory>
#include <vector>

#include "methods/method.h"

namespace peft::detail {

/// `tokens`: the rows, each once. check() tells those that W does not have.
std::unique_ptr<const Method> make_token_rows(std::vector<std::int64_t> tokens);

}  // namespace peft::detail
