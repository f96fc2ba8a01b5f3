// SPDX-License-Identifier: Apache-2.0
#include "hosting/adapted_weight.h"

#include <algorithm>
#include <atomic>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <c10/core/InferenceMode.h>
#include <torch/nn/modules/dropout.h>

#include "base/text.h"
#include "hosting/merged_weights.h"
#include "hosting/mixed_batch.h"
#include "methods/low_rank_factors.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

std::atomic<std::int64_t> formed{0};

// `bias` with the result of `change` in place of some of its rows.
template <class Change>
at::Tensor with_rows(
    const at::Tensor& bias,
    std::pair<std::int64_t, std::int64_t> rows,
    const Change& change) {
  const auto [begin, end] = rows;
  if (begin == 0 && end == bias.size(0)) {
    return change(bias);
  }
  return at::cat(
      {bias.slice(0, 0, begin),
       change(bias.slice(0, begin, end)),
       bias.slice(0, end)});
}

bool change_anything(const Steps& steps) {
  return std::any_of(steps.begin(), steps.end(), [](const Step& step) {
    return !std::holds_alternative<Observed>(step);
  });
}

// Its tensors came without values and have not been given any.
void check_filled(const Attachment& attachment) {
  for (const at::Tensor& tensor : attachment.parameters) {
    if (tensor.is_meta()) {
      throw Error(
          ErrorKind::state,
          "an active adapter was injected empty (low_cpu_mem_usage) and has "
          "no weights yet; load them with set_peft_model_state_dict first");
    }
  }
}

}  // namespace

std::int64_t effective_weights_formed() {
  return formed.load();
}

double Attachment::dropout_now() const {
  const bool drops =
      dropout && (is_training ? is_training() : dropout->is_training());
  return drops ? dropout->options.p() : 0.0;
}

AdaptedWeight::AdaptedWeight(
    WeightId id,
    at::Tensor base,
    WeightLayout layout,
    std::shared_ptr<const Activation> activation,
    std::string layer)
    : id_(id),
      base_(std::move(base)),
      layout_(std::move(layout)),
      activation_(std::move(activation)),
      layer_(std::move(layer)),
      tensor_(at::Tensor().getIntrusivePtr()) {}

std::shared_ptr<AdaptedWeight> AdaptedWeight::on(at::Tensor base) const {
  return std::make_shared<AdaptedWeight>(
      id_, std::move(base), layout_, activation_, layer_);
}

void AdaptedWeight::stands_in(const at::Tensor& tensor) {
  tensor_ = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>(
      tensor.getIntrusivePtr());
}

at::Tensor AdaptedWeight::tensor() const {
  return at::Tensor(tensor_.lock());
}

bool AdaptedWeight::is_touched_by(const AttachedAdapters& adapters) const {
  return std::any_of(adapters.begin(), adapters.end(), [&](const auto& a) {
    return !a->on(id_).empty();
  });
}

AdaptedWeight::Active AdaptedWeight::active(const Choice& choice) const {
  Active found;
  std::size_t own = 0;
  if (choice.enabled) {
    for (const auto& adapter : choice.adapters) {
      for (const auto& attachment : adapter->on(id_)) {
        check_filled(*attachment);
        if (!attachment->was_read.load(std::memory_order_relaxed)) {
          attachment->was_read.store(true, std::memory_order_relaxed);
        }
        if (attachment->own_norms) {
          found.insert(found.begin() + own++, attachment.get());
        } else {
          found.push_back(attachment.get());
        }
      }
    }
  }
  return found;
}

AdaptedWeight::Ground AdaptedWeight::ground(const Active& active) const {
  const Attachment* own = nullptr;
  for (const Attachment* a : active) {
    own = a->own_norms ? a : own;
  }
  return own ? Ground{own->parameters[0], *own->own_norms}
             : Ground{base_, norms_};
}

Application AdaptedWeight::application(
    const Attachment& attachment,
    const Ground& ground,
    double scale) const {
  return {
      ground.tensor,
      attachment.layout ? *attachment.layout : layout_,
      attachment.parameters,
      ground.norms,
      attachment.scale * scale};
}

std::optional<Step> AdaptedWeight::step_of(const Attachment& a, CheapForm form)
    const {
  Step step = Observed{};
  if (auto* low_rank = std::get_if<LowRank>(&form)) {
    step = LowRankStep{std::move(*low_rank), a.dropout_now()};
  } else if (auto* gain = std::get_if<Gain>(&form)) {
    step = std::move(*gain);
  } else if (auto* rows = std::get_if<Rows>(&form)) {
    step = std::move(*rows);
  } else if (const auto* observed = std::get_if<Observed>(&form)) {
    step = *observed;
  } else {
    return std::nullopt;
  }
  const bool fits =
      !a.layout || a.layout->form == layout_.form || turn_to_matrix(step);
  return fits ? std::optional(std::move(step)) : std::nullopt;
}

std::optional<CheapReading> AdaptedWeight::read(
    const Choice& choice,
    double scale) const {
  mask_.was_read();
  CheapReading reading{base_};
  if (choice.merged && choice.enabled) {
    if (auto merged = choice.merged->find(*this)) {
      reading = {.base = std::move(merged->weight), .is_own = false};
      if (merged->offset.defined()) {
        reading.steps.push_back(Offset{std::move(merged->offset)});
      }
    }
    return reading;
  }
  const Active all = active(choice);
  const Ground on = ground(all);
  for (const Attachment* a : all) {
    auto form = a->method->cheap_form(application(*a, on, scale));
    if (const auto* replaced = std::get_if<Replaced>(&form)) {
      reading = {.base = replaced->weight, .is_own = false};
    } else if (auto step = step_of(*a, std::move(form))) {
      reading.steps.push_back(std::move(*step));
    } else {
      return std::nullopt;
    }
  }
  if (mask_.zeroed().defined() && change_anything(reading.steps)) {
    return std::nullopt;
  }
  return reading;
}

const MixedBatch* AdaptedWeight::mixed_batch() const {
  const Running now = running(*activation_);
  if (!now.batch) {
    return nullptr;
  }
  const auto& groups = now.batch->groups();
  const bool any = std::any_of(groups.begin(), groups.end(), [&](auto& group) {
    return is_touched_by(group.choice.adapters);
  });
  return any ? now.batch : nullptr;
}

std::optional<WeightReading> AdaptedWeight::cheap_reading() const {
  const Running now = running(*activation_);
  WeightReading reading;
  if (!now.batch || !mixed_batch()) {
    auto only = read(now.batch ? Choice{} : *now.choice, now.scale);
    if (!only) {
      return std::nullopt;
    }
    reading.parts.push_back(std::move(*only));
    return reading;
  }
  reading.batch = now.batch;
  reading.layer = layer_;
  for (const auto& group : now.batch->groups()) {
    auto part = read(group.choice, now.scale);
    if (!part) {
      return std::nullopt;
    }
    reading.parts.push_back(std::move(*part));
  }
  return reading;
}

bool AdaptedWeight::mixes_groups(const Active& active) const {
  return layout_.groups > 1 &&
      std::any_of(active.begin(), active.end(), [](const Attachment* a) {
           return a->method->mixes_groups();
         });
}

at::Tensor AdaptedWeight::apply(
    const Active& active,
    double scale,
    at::Tensor weight) const {
  const Ground below = ground(active);
  at::Tensor unchanged = weight;
  for (const Attachment* a : active) {
    const Application on = application(*a, below, scale);
    weight = a->bias_rows ? with_rows(
                                weight,
                                *a->bias_rows,
                                [&](const at::Tensor& rows) {
                                  return a->method->effective_bias(rows, on);
                                })
                          : a->method->effective(weight, on);
    unchanged = a->method->replaces() ? weight : unchanged;
  }
  return weight.sizes() == base_.sizes() ? mask_.apply(weight, unchanged)
                                         : weight;
}

at::Tensor AdaptedWeight::effective(const Choice& choice, double scale) const {
  mask_.was_read();
  if (choice.merged && choice.enabled) {
    const auto merged = choice.merged->find(*this);
    return merged ? merged->weight : base_;
  }
  const Active all = active(choice);
  if (mixes_groups(all)) {
    throw Error(
        ErrorKind::unsupported,
        concat(
            "'",
            layer_,
            "': the LoRA of a convolution in groups reads all input channels "
            "and has no effective weight of the convolution's own shape; only "
            "convolutions whose weight has no mask written into it and "
            "merge_adapter can use it: leave the layer out for other uses"));
  }
  const bool is_added =
      std::any_of(all.begin(), all.end(), [](const Attachment* a) {
        return !a->bias_rows && !a->method->replaces();
      });
  formed += is_added ? 1 : 0;
  // Half precision is rounded once, however many adapters there are.
  return all.empty() ? base_
                     : apply(all, scale, is_added ? exact(base_) : base_)
                           .to(base_.scalar_type());
}

at::Tensor AdaptedWeight::effective() const {
  const Running now = running(*activation_);
  if (!now.batch) {
    return effective(*now.choice, now.scale);
  }
  if (mixed_batch()) {
    throw Error(
        ErrorKind::unsupported,
        concat(
            "a mixed batch (BatchAdapters) has adapters on '",
            layer_,
            "', and a weight of it is read by another operator than a linear "
            "map, a lookup or a convolution; run each adapter's rows by "
            "themselves (UseAdapter)"));
  }
  return base_;
}

at::Tensor AdaptedWeight::effective_in_group(std::size_t group) const {
  const Running now = running(*activation_);
  return effective(now.batch->groups()[group].choice, now.scale);
}

WeightReading AdaptedWeight::effective_by_group(const MixedBatch& batch) const {
  WeightReading reading{.parts = {}, .batch = &batch, .layer = layer_};
  for (std::size_t g = 0; g < batch.groups().size(); ++g) {
    reading.parts.push_back({.base = effective_in_group(g), .is_own = false});
  }
  return reading;
}

// What adapters add to the result where the layer has no bias that could take
// it, as later ones change it.
at::Tensor AdaptedWeight::offset_of(const Active& active) const {
  at::Tensor offset;
  const Ground on = ground(active);
  for (const Attachment* a : active) {
    const CheapForm form = a->method->cheap_form(application(*a, on, 1));
    if (const auto* gain = std::get_if<Gain>(&form)) {
      if (offset.defined() && gain->side == Gain::Side::outputs) {
        offset = offset * exact(gain->vector);
      }
    } else if (const auto* low_rank = std::get_if<LowRank>(&form)) {
      if (offset.defined() && low_rank->gain.defined()) {
        offset = offset * exact(low_rank->gain);
      }
      if (low_rank->bias.defined()) {
        at::Tensor added = exact(low_rank->bias) * low_rank->scale;
        if (low_rank->gain.defined()) {
          added = added * exact(low_rank->gain);
        }
        offset = offset.defined() ? offset + added : added;
      }
    }
  }
  return offset.defined() ? offset.to(base_.scalar_type()).detach() : offset;
}

MergedWeight AdaptedWeight::merged_with(
    const AttachedAdapters& adapters) const {
  const c10::InferenceMode usable_in_training(false);
  const at::NoGradGuard no_grad;
  const Active all = active({.adapters = adapters});
  if (mixes_groups(all) && mask_.zeroed().defined()) {
    throw Error(
        ErrorKind::unsupported,
        "a mask was written into the weight of this convolution in groups, "
        "whose LoRA reads all input channels: it cannot be merged");
  }
  const at::Tensor from = mixes_groups(all) ? ungrouped(base_, layout_) : base_;
  MergedWeight merged{
      apply(all, 1, exact(from)).to(base_.scalar_type()).detach()};
  const bool is_bias = std::any_of(
      all.begin(), all.end(), [](const Attachment* a) { return a->bias_rows; });
  if (!is_bias) {
    merged.offset = offset_of(all);
  }
  return merged;
}

WeightChange AdaptedWeight::change_by(const Active& active) const {
  WeightChange change = WeightChange::none;
  const Ground on = ground(active);
  for (const Attachment* a : active) {
    if (a->method->replaces()) {
      continue;
    }
    const CheapForm form = a->bias_rows
        ? CheapForm()
        : a->method->cheap_form(application(*a, on, 1));
    const auto* low_rank = std::get_if<LowRank>(&form);
    if (!std::holds_alternative<Observed>(form)) {
      change = std::max(
          change,
          low_rank && !low_rank->gain.defined() ? WeightChange::sum
                                                : WeightChange::other);
    }
  }
  return change;
}

WeightChange AdaptedWeight::change() const {
  const Running now = running(*activation_);
  if (!now.batch) {
    const auto& merged = now.choice->merged;
    return change_by(active(
        merged ? Choice{now.choice->enabled, merged->adapters()}
               : *now.choice));
  }
  WeightChange change = WeightChange::none;
  for (const auto& group : now.batch->groups()) {
    change = std::max(change, change_by(active(group.choice)));
  }
  return change;
}

at::Tensor AdaptedWeight::written() const {
  const Running now = running(*activation_);
  const Choice& choice = *now.choice;
  const Active all = active(
      choice.merged ? Choice{choice.enabled, choice.merged->adapters()}
                    : choice);
  at::Tensor weight = base_;
  for (const Attachment* a : all) {
    if (a->method->replaces()) {
      weight = a->parameters[0];
    }
  }
  return weight;
}

}  // namespace peft::detail
