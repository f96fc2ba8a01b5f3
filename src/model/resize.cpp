// SPDX-License-Identifier: Apache-2.0
// An adapter at another rank, or as LoRA.
#include <algorithm>

#include "base/text.h"
#include "config/copy_fields.h"
#include "hosting/module_host.h"
#include "model/about_adapter.h"
#include "model/adapter_tensors.h"
#include "model/hotswap.h"
#include "model/lora_update.h"
#include "model/residence.h"

namespace peft {
namespace {

using namespace detail;

void check_choice(const RankChoice& choice, const char* asking) {
  if (choice.rank() && *choice.rank() <= 0) {
    throw Error(
        ErrorKind::config,
        concat("[", asking, "] rank = ", *choice.rank(), "; give one above 0"));
  }
  if (choice.energy() && !(*choice.energy() > 0 && *choice.energy() <= 1)) {
    throw Error(
        ErrorKind::config,
        concat(
            "[",
            asking,
            "] a share of ",
            *choice.energy(),
            " of the energy; give one in (0, 1], or a whole number as a rank"));
  }
}

// Layers of the method itself; the others are saved copies.
std::vector<const Target*> own_targets(const AdapterRecord& record) {
  std::vector<const Target*> targets;
  for (const Target& target : record.targets) {
    if (target.of_method()) {
      targets.push_back(&target);
    }
  }
  return targets;
}

void check_convertible(const AdapterRecord& record, const char* asking) {
  check_filled(record, asking);
  Mistakes mistakes(
      ErrorKind::unsupported,
      concat(about_adapter(asking, record.name), " has no form as LoRA"));
  for (const Target& target : record.targets) {
    if (target.role == Role::token_rows) {
      mistakes.add(concat(
          "'",
          target.layer_path,
          "' has rows of tokens (trainable_token_indices)"));
    }
    const auto update = target.of_method() ? update_of(target) : std::nullopt;
    if (update && !update->acts_everywhere) {
      mistakes.add(concat(
          "'",
          target.layer_path,
          "' is acted on at some positions only (aLoRA)"));
    }
  }
  mistakes.raise_if_any();
}

// By file keys.
StateDict written(
    const std::vector<const Target*>& targets,
    std::vector<LoraUpdate> updates) {
  level_ranks(targets, updates);
  StateDict weights;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    insert_update(weights, *targets[i], updates[i]);
  }
  fill_biases(weights, targets);
  return weights;
}

// DoRA's, which a new rank leaves as they are.
void insert_magnitudes(StateDict& weights, const Target& target) {
  for (std::size_t i = 0; i < target.specs.size(); ++i) {
    if (target.specs[i].dict == "lora_magnitude_vector") {
      weights.insert(
          join_path(target.file_prefix, target.specs[i].file_name),
          target.attachment->parameters[i].detach());
    }
  }
}

}  // namespace

void resize_adapter(
    torch::nn::Module& model,
    RankChoice rank,
    const std::string& adapter_name) {
  constexpr const char* asking = "resize_adapter";
  check_choice(rank, asking);
  const auto state = get_state(ModuleHost(model));
  const auto turn = state->lock();
  AdapterRecord& record = state->get(adapter_name, asking);
  check_not_attached(record, asking);
  check_filled(record, asking);
  const auto* lora = dynamic_cast<const LoraConfig*>(record.config.get());
  if (!lora || record.config->peft_type() != "LORA") {
    throw Error(
        ErrorKind::unsupported,
        concat(
            about_adapter(asking, adapter_name),
            " is of method ",
            record.config->peft_type(),
            "; convert_to_lora gives it a rank"));
  }
  const auto targets = own_targets(record);
  std::vector<LoraUpdate> updates;
  for (const Target* target : targets) {
    updates.push_back(at_rank(*update_of(*target), target->layout, rank));
  }
  StateDict weights = written(targets, std::move(updates));
  for (const Target* target : targets) {
    insert_magnitudes(weights, *target);
  }
  LoraConfig config = *lora;
  set_ranks(config, targets, weights);
  hotswap(*state, record, config, weights, /*host=*/nullptr, asking);
}

LoraWeights convert_to_lora(
    torch::nn::Module& model,
    RankChoice rank,
    const std::string& adapter_name) {
  constexpr const char* asking = "convert_to_lora";
  check_choice(rank, asking);
  const auto state = get_state(ModuleHost(model));
  const auto turn = state->lock();
  AdapterRecord& record = state->get(adapter_name, asking);
  make_resident(*state, {&record});
  check_convertible(record, asking);
  const auto targets = own_targets(record);
  std::vector<LoraUpdate> updates;
  for (const Target* target : targets) {
    updates.push_back(update_of_rank(*target, rank));
  }
  LoraWeights lora;
  lora.weights = written(targets, std::move(updates));
  lora.config.task_type = record.config->task_type;
  lora.config.base_model_name_or_path = record.config->base_model_name_or_path;
  copy_fields(*record.config, lora.config, target_fields());
  lora.config.bias = record.config->target_rules().bias;
  set_ranks(lora.config, targets, lora.weights);
  for (const auto& item : adapter_tensors(record)) {
    for (const Target& target : record.targets) {
      const bool is_copy = target.is_copy() && !target.tied_to &&
          item.key() ==
              join_path(target.file_prefix, target.specs[0].file_name);
      if (is_copy && !lora.weights.contains(item.key())) {
        lora.weights.insert(item.key(), item.value().detach());
      }
    }
  }
  return lora;
}

}  // namespace peft
