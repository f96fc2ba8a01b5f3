// SPDX-License-Identifier: Apache-2.0
// Activated LoRA (aLoRA, https://arxiv.org/abs/2504.12397): an adapter that
// acts from an invocation sequence on, so that what was computed for earlier
// tokens (a KV cache) stays the base model's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "peft/export.h"
#include "peft/lora_config.h"

namespace peft {

namespace detail {
struct OpenAloraScope;
}

/// For each row of a batch, how many positions from its end an aLoRA adapter
/// acts on; nothing: on none of that row.
using AloraOffsets = std::vector<std::optional<std::int64_t>>;

/// For each row of `input_ids` [batch, positions], the distance from the start
/// of the last occurrence of config.alora_invocation_tokens to the row's end;
/// nothing where they do not occur. Throws Error (config) when the config has
/// none, Error (shape) when the ids are no matrix.
PEFT_API AloraOffsets
calculate_alora_offsets(const LoraConfig& config, const at::Tensor& input_ids);

/// While it lives, aLoRA adapters act by `offsets` in every forward of this
/// thread; without one they do not act at all, as in PEFT. Scopes nest: the
/// innermost counts. May end out of order or in another thread.
///
///   const peft::AloraScope scope(calculate_alora_offsets(config, ids));
///   auto logits = model->forward(ids);
///
/// Layers see x [batch, positions, ...], or [batch * positions, ...] with the
/// positions of a row together. A layer whose input is neither: Error (shape).
class PEFT_API AloraScope {
 public:
  [[nodiscard]] explicit AloraScope(AloraOffsets offsets);
  ~AloraScope();
  AloraScope(const AloraScope&) = delete;
  AloraScope& operator=(const AloraScope&) = delete;

 private:
  const std::shared_ptr<detail::OpenAloraScope> scope_;
};

}  // namespace peft
