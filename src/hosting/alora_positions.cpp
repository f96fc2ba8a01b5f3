// SPDX-License-Identifier: Apache-2.0
#include "hosting/alora_positions.h"

#include <algorithm>

#include <ATen/ops/tensor.h>

#include "base/text.h"
#include "graph/vmap.h"
#include "hosting/thread_scopes.h"
#include "peft/alora.h"
#include "peft/error.h"

namespace peft {
namespace detail {

struct OpenAloraScope {
  AloraOffsets offsets;
  std::atomic<bool> ended = false;
};

}  // namespace detail

namespace {

using AloraScopes = detail::ThreadScopes<detail::OpenAloraScope>;

// Where `tokens` start for the last time; -1: nowhere.
std::int64_t last_start(
    const std::int64_t* row,
    std::int64_t size,
    const std::vector<std::int64_t>& tokens) {
  const std::int64_t* end = row + size;
  const std::int64_t* found =
      std::find_end(row, end, tokens.begin(), tokens.end());
  return found == end ? -1 : found - row;
}

}  // namespace

AloraScope::AloraScope(AloraOffsets offsets)
    : scope_(new detail::OpenAloraScope{std::move(offsets)}) {
  AloraScopes::begin(scope_);
}

AloraScope::~AloraScope() {
  AloraScopes::end(*scope_);
}

AloraOffsets calculate_alora_offsets(
    const LoraConfig& config,
    const at::Tensor& input_ids) {
  const auto& tokens = config.alora_invocation_tokens;
  if (!tokens || tokens->empty()) {
    throw Error(
        ErrorKind::config,
        "[calculate_alora_offsets] the config has no alora_invocation_tokens: "
        "it is not an aLoRA adapter's");
  }
  if (input_ids.dim() != 2) {
    throw Error(
        ErrorKind::shape,
        detail::concat(
            "[calculate_alora_offsets] input_ids is ",
            input_ids.sizes(),
            "; give [batch, positions]"));
  }
  const at::Tensor ids = input_ids.to(at::kCPU, at::kLong).contiguous();
  AloraOffsets offsets;
  for (std::int64_t row = 0; row < ids.size(0); ++row) {
    const auto start = last_start(
        ids.const_data_ptr<std::int64_t>() + row * ids.size(1),
        ids.size(1),
        *tokens);
    offsets.push_back(
        start < 0 ? std::nullopt : std::optional(ids.size(1) - start));
  }
  return offsets;
}

namespace detail {

const AloraOffsets* alora_offsets() {
  const auto* scope = AloraScopes::innermost([](const auto&) { return true; });
  return scope ? &scope->offsets : nullptr;
}

at::Tensor activated_rows(const at::Tensor& features) {
  std::vector<std::int64_t> rows;
  const AloraOffsets* current = alora_offsets();
  if (current && graph::runs_in_vmap()) {
    throw Error(
        ErrorKind::unsupported,
        "an AloraScope gives offsets for rows, and an aLoRA layer stands "
        "inside torch.vmap, which hides the rows of the batch; leave the layer "
        "out of target_modules");
  }
  if (current) {
    const auto batch = static_cast<std::int64_t>(current->size());
    const std::int64_t first = features.dim() > 1 ? features.size(0) : 1;
    const bool is_flat = features.dim() <= 2;
    const bool fits =
        batch > 0 && (is_flat ? first % batch == 0 : features.size(0) == batch);
    if (!fits) {
      throw Error(
          ErrorKind::shape,
          concat(
              "an AloraScope gives offsets for ",
              batch,
              " rows, and an aLoRA layer sees ",
              features.sizes(),
              "; give one offset for each row of the batch"));
    }
    const std::int64_t positions = is_flat ? first / batch : features.size(1);
    // Features of one position that stand in further dimensions (heads).
    std::int64_t each = 1;
    for (std::int64_t d = 2; d < features.dim() - 1; ++d) {
      each *= features.size(d);
    }
    for (std::int64_t row = 0; row < batch; ++row) {
      const auto& offset = (*current)[static_cast<std::size_t>(row)];
      const auto acting =
          std::clamp<std::int64_t>(offset.value_or(0), 0, positions);
      const std::int64_t end = (row + 1) * positions * each;
      for (std::int64_t i = end - acting * each; i < end; ++i) {
        rows.push_back(i);
      }
    }
  }
  return at::tensor(rows, at::TensorOptions(at::kLong)).to(features.device());
}

}  // namespace detail
}  // namespace peft
