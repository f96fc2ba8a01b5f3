// SPDX-License-Identifier: Apache-2.0
#include "model/swap.h"

#include <algorithm>
#include <set>

#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include "base/text.h"
#include "config/copy_fields.h"
#include "config/lora_variants.h"
#include "hosting/adapted_tensor.h"
#include "model/adapter_tensors.h"
#include "model/attach.h"
#include "model/expert_order.h"
#include "model/own_bases.h"
#include "model/plan_again.h"
#include "model/residence.h"

namespace peft::detail {
namespace {

bool is_trained(const Target& target) {
  const Tensors& tensors = target.attachment->parameters;
  return std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& t) {
    return t.requires_grad();
  });
}

bool same_shapes(const Target& a, const Target& b) {
  return std::equal(
      a.specs.begin(),
      a.specs.end(),
      b.specs.begin(),
      b.specs.end(),
      [](const ParameterSpec& x, const ParameterSpec& y) {
        return x.dict == y.dict && x.leaf == y.leaf && x.shape == y.shape;
      });
}

// An optimiser may hold them.
void keep_tensors(const Target& target, Target& next) {
  const at::NoGradGuard no_grad;
  const Tensors& own = target.attachment->parameters;
  for (std::size_t i = 0; i < own.size() && !target.tied_to; ++i) {
    at::Tensor to = own[i];
    to.copy_(next.attachment->parameters[i]);
  }
  next.attachment->parameters = own;
  next.attachment->dropout = target.attachment->dropout;
  if (next.bias_attachment) {
    next.bias_attachment->parameters = own;
  }
}

}  // namespace

Swap::Swap(
    AdapterRecord& record,
    const AdapterConfig& config,
    const char* asking)
    : record_(record), asking_(asking), config_(config.clone()) {
  copy_fields(*record.config, *config_, target_fields());
  config_->inference_mode = record.config->inference_mode;
}

LoadReport Swap::plan(const StateDict& given, const Host* host) {
  // Tensors made in inference mode could never be trained.
  const c10::InferenceMode trainable_later(false);
  const bool was_warned = record_.source.has_value();  // when it was attached
  const StateDict weights =
      in_todays_order(record_.targets, *config_, given, was_warned);
  for (const Target& target : record_.targets) {
    if (!host || target.role != Role::own_base) {
      targets_.push_back(target);
    }
  }
  note_given(weights);
  fit();
  make(weights, host);
  const std::set<std::string> may_miss(
      without_weights_.begin(), without_weights_.end());
  AdapterRecord preview{.name = record_.name, .config = config_->clone()};
  preview.base_keys = record_.base_keys;
  for (const MadeTarget& made : made_) {
    preview.targets.push_back(made.planned.target);
  }
  load_where_given(preview, weights, may_miss, asking_);
  LoadReport report;
  report.missing_keys = std::move(without_weights_);
  return report;
}

void Swap::commit(ModelState& state) {
  std::vector<bool> kept;
  for (std::size_t i = 0; i < targets_.size(); ++i) {
    kept.push_back(is_kept(i));
  }
  if (!record_.source) {  // has nothing in the tree
    move_in_tree(kept, state.shared_from_this());
  }
  std::vector<Target> next;
  for (std::size_t i = 0; i < made_.size(); ++i) {
    next.push_back(made_[i].planned.target);
    if (i < targets_.size()) {
      take_over_from(targets_[i], next.back(), kept[i]);
    }
  }
  record_.targets = std::move(next);
  record_.config = std::move(config_);
  if (record_.source) {
    record_.source->bytes = std::max<std::int64_t>(size_of(record_), 1);
  }
  attach(state, record_, record_.attached->id());
  make_schedule(record_);
}

void Swap::note_given(const StateDict& weights) {
  std::set<std::string> keys;
  for (const auto& item : weights) {
    keys.insert(without_prefix(item.key()));
  }
  for (const Target& target : targets_) {
    shapes_.push_back(
        target.of_method() ? stored_shapes(weights, target.file_prefix)
                           : StoredShapes());
    bool given = !shapes_.back().empty();
    for (const ParameterSpec& spec : target.specs) {
      given |= !target.of_method() && !spec.file_name.empty() &&
          keys.contains(join_path(target.file_prefix, spec.file_name));
    }
    given_.push_back(given);
  }
}

// Ranks by the shapes of what is given, where the patterns say otherwise.
void Swap::fit() {
  const MethodEntry& entry = method_entry(*config_);
  for (std::size_t i = 0; i < targets_.size(); ++i) {
    const Target& target = targets_[i];
    if (entry.fit && target.of_method() && given_[i]) {
      entry.fit(*config_, target.name(), target.layout, shapes_[i]);
    }
  }
  Mistakes mistakes(
      ErrorKind::config,
      concat("[", asking_, "] cannot swap adapter '", record_.name, "'"));
  check_beside_tensors(*config_, mistakes);
  mistakes.raise_if_any();
}

void Swap::make(const StateDict& weights, const Host* host) {
  const MethodEntry& entry = method_entry(*config_);
  const auto neutral = config_->clone();
  entry.start_without_effect(*neutral);
  Mistakes mistakes(
      ErrorKind::config,
      concat("[", asking_, "] cannot swap adapter '", record_.name, "'"));
  InjectionPlan plan;
  for (std::size_t i = 0; i < targets_.size(); ++i) {
    const Target& target = targets_[i];
    auto method = target.attachment->method;
    if (target.of_method()) {
      method = entry.make(given_[i] ? *config_ : *neutral, target.name());
      method->check(layer_layout(target), target.layer_path, mistakes);
    }
    plan.targets.push_back(plan_again(target, std::move(method)));
    if (!host) {
      stay_on_own_base(plan.targets.back(), target);
    }
  }
  if (host) {
    plan_new_bases(plan, weights, *host, mistakes);
  }
  mistakes.raise_if_any();
  for (std::size_t i = 0; i < plan.targets.size(); ++i) {
    make_one(i, std::move(plan.targets[i]));
  }
}

// Members of layers that no adapter stands on may not be written now.
void Swap::plan_new_bases(
    InjectionPlan& plan,
    const StateDict& weights,
    const Host& host,
    Mistakes& mistakes) const {
  plan_own_bases(
      plan,
      host.layers(),
      {.weights = &weights, .own_base_weights = record_.own_base_weights},
      mistakes);
  for (std::size_t i = targets_.size(); i < plan.targets.size(); ++i) {
    PlannedTarget& planned = plan.targets[i];
    const auto* adapted = as_adapted(planned.hosted.place->get());
    if (adapted) {
      planned.target.weight = adapted->weight();
    } else {
      mistakes.add(concat(
          "the weights hold '",
          join_path(planned.target.layer_path, planned.target.tensor_name),
          "' whole, and no adapter stands on it yet; load them under another "
          "name with load_adapter"));
    }
  }
}

void Swap::make_one(std::size_t i, PlannedTarget planned) {
  if (const auto owner = planned.target.tied_to) {
    made_.push_back(make_tied(std::move(planned), made_[*owner]));
    return;
  }
  if (i >= targets_.size()) {
    made_.push_back(make_target(
        std::move(planned),
        /*trainable=*/false,
        {.empty = true, .autocast_adapter_dtype = record_.autocast_dtype}));
    return;
  }
  const Target& target = targets_[i];
  const bool given = given_[i];
  made_.push_back(make_target(
      std::move(planned),
      is_trained(target),
      {.empty = given, .autocast_adapter_dtype = record_.autocast_dtype}));
  const Target& now = made_.back().planned.target;
  // Goes on as it is where nothing is given.
  if (!target.of_method() && !now.attachment->parameters[0].is_meta() &&
      same_shapes(target, now)) {
    const at::NoGradGuard no_grad;
    for (std::size_t p = 0; p < now.specs.size(); ++p) {
      at::Tensor to = now.attachment->parameters[p];
      to.copy_(target.attachment->parameters[p]);
    }
  }
  if (!given) {
    for (const ParameterSpec& spec : now.specs) {
      if (!spec.file_name.empty()) {
        without_weights_.push_back(
            join_path(target.file_prefix, spec.file_name));
      }
    }
  }
}

// Tensors that are trained stay the same objects, with those beside them in
// one saved module.
bool Swap::is_kept(std::size_t i) const {
  const Target& target = targets_[i];
  if (record_.source || !same_shapes(target, made_[i].planned.target)) {
    return false;
  }
  if (is_trained(target) || target.role != Role::saved_copy) {
    return is_trained(target);
  }
  return std::any_of(
      targets_.begin(), targets_.end(), [&](const Target& other) {
        return other.role == target.role &&
            other.layer_path == target.layer_path && is_trained(other);
      });
}

// What the tree shows: old modules go before new ones come, as several targets
// may share a container.
void Swap::move_in_tree(
    const std::vector<bool>& kept,
    const std::shared_ptr<Owner>& owner) {
  for (std::size_t i = 0; i < record_.targets.size(); ++i) {
    const Target& old = record_.targets[i];
    if (i >= kept.size() || !kept[i]) {
      unregister_target(
          old.seat(),
          record_.name,
          old.attachment->method->dropout().dict,
          old.specs);
    }
  }
  for (std::size_t i = 0; i < made_.size(); ++i) {
    const Target& next = made_[i].planned.target;
    if ((i < kept.size() && kept[i]) || !next.seat().layer) {
      continue;
    }
    register_adapter(
        next.seat(), record_.name, made_[i].seated, next.weight, owner);
    if (next.bias) {
      follow_dtype(next.seat(), made_[i].seated, next.bias);
    }
  }
}

// What stays of the old target in the one that takes its place.
void Swap::take_over_from(const Target& old, Target& next, bool kept) const {
  if (record_.source) {  // read again, and not another one
    next.attachment->scale = old.attachment->scale;
    if (next.bias_attachment) {
      next.bias_attachment->scale = old.attachment->scale;
    }
    next.attachment->dropout = nullptr;
  } else if (kept) {
    keep_tensors(old, next);
  }
}

}  // namespace peft::detail
