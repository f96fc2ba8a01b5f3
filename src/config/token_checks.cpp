// SPDX-License-Identifier: Apache-2.0
#include "config/token_checks.h"

#include <algorithm>
#include <set>
#include <string>

#include "base/text.h"

namespace peft::detail {
namespace {

using Tokens = std::vector<std::int64_t>;

// `name` is the field, or the layer's place in it.
void check_ids(
    const std::string& name,
    const Tokens& tokens,
    Mistakes& mistakes) {
  if (tokens.empty()) {
    mistakes.add(
        ErrorKind::config,
        concat(name, " is an empty list; name tokens, or leave it out"));
  }
  for (const std::int64_t token : std::set(tokens.begin(), tokens.end())) {
    if (token < 0) {
      mistakes.add(
          ErrorKind::config,
          concat(name, " holds ", token, "; token ids count from 0"));
    }
  }
}

// One row of the embedding cannot be trained as two.
void check_once(
    const std::string& name,
    const Tokens& tokens,
    Mistakes& mistakes) {
  std::set<std::int64_t> seen;
  std::set<std::int64_t> twice;
  for (const std::int64_t token : tokens) {
    if (!seen.insert(token).second && twice.insert(token).second) {
      mistakes.add(
          ErrorKind::config,
          concat(name, " holds ", token, " twice; keep one"));
    }
  }
}

void check_layer(
    const std::string& layer,
    const LoraConfig& config,
    Mistakes& mistakes) {
  const auto& whole = config.modules_to_save;
  if (layer.empty()) {
    mistakes.add(
        ErrorKind::config,
        "trainable_token_indices has a layer without a name; name an "
        "embedding, as in 'embed_tokens'");
  } else if (std::find(whole.begin(), whole.end(), layer) != whole.end()) {
    mistakes.add(
        ErrorKind::config,
        concat(
            "trainable_token_indices has '",
            layer,
            "', which modules_to_save trains whole; keep it in one of them"));
  }
}

}  // namespace

void check_tokens(const LoraConfig& config, Mistakes& mistakes) {
  if (config.alora_invocation_tokens) {
    check_ids(
        "alora_invocation_tokens", *config.alora_invocation_tokens, mistakes);
  }
  const std::string name = "trainable_token_indices";
  const TokenChoice& choice = config.trainable_token_indices;
  if (choice.is_list()) {
    check_ids(name, choice.tokens(), mistakes);
    check_once(name, choice.tokens(), mistakes);
  } else if (choice.is_by_layer()) {
    std::set<std::string> layers;
    for (const auto& [layer, tokens] : choice.by_layer()) {
      const std::string place = concat(name, "['", layer, "']");
      check_layer(layer, config, mistakes);
      check_ids(place, tokens, mistakes);
      check_once(place, tokens, mistakes);
      if (!layers.insert(layer).second) {
        mistakes.add(
            ErrorKind::config,
            concat(name, " has the layer '", layer, "' twice"));
      }
    }
  }
}

}  // namespace peft::detail
