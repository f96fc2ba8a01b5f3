// SPDX-License-Identifier: Apache-2.0
#include "hosting/adapted_weight.h"

#include <algorithm>

#include <torch/nn/modules/dropout.h>

namespace peft::detail {
namespace {

std::atomic<std::int64_t> formed{0};

bool before(const std::shared_ptr<const Attachment>& a, AdapterId id) {
  return a->adapter < id;
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
    at::Tensor base,
    WeightLayout layout,
    std::shared_ptr<const Activation> activation)
    : base_(std::move(base)),
      layout_(std::move(layout)),
      activation_(std::move(activation)),
      attachments_({}),
      tensor_(at::Tensor().getIntrusivePtr()) {}

void AdaptedWeight::stands_in(const at::Tensor& tensor) {
  tensor_ = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>(
      tensor.getIntrusivePtr());
}

at::Tensor AdaptedWeight::tensor() const {
  return at::Tensor(tensor_.lock());
}

void AdaptedWeight::attach(std::shared_ptr<const Attachment> attachment) {
  Attachments next = *attachments_.load();
  const auto place =
      std::lower_bound(next.begin(), next.end(), attachment->adapter, before);
  next.insert(place, std::move(attachment));
  attachments_.store(std::move(next));
}

void AdaptedWeight::detach(AdapterId adapter) {
  Attachments next = *attachments_.load();
  std::erase_if(next, [&](const auto& a) { return a->adapter == adapter; });
  attachments_.store(std::move(next));
}

void AdaptedWeight::move_attachments() const {
  for (const auto& attachment : *attachments_.load()) {
    for (at::Tensor tensor : attachment->parameters) {
      const bool cast = tensor.is_floating_point() && base_.is_floating_point();
      tensor.set_data(tensor.detach().to(
          base_.device(), cast ? base_.scalar_type() : tensor.scalar_type()));
    }
  }
}

bool AdaptedWeight::has(AdapterId adapter) const {
  const auto all = attachments_.load();
  const auto found =
      std::lower_bound(all->begin(), all->end(), adapter, before);
  return found != all->end() && (*found)->adapter == adapter;
}

c10::SmallVector<std::shared_ptr<const Attachment>, 2> AdaptedWeight::active()
    const {
  c10::SmallVector<std::shared_ptr<const Attachment>, 2> found;
  const auto chosen = activation_->load();
  if (!chosen->enabled) {
    return found;
  }
  const auto all = attachments_.load();
  for (const AdapterId id : chosen->ids) {
    const auto place = std::lower_bound(all->begin(), all->end(), id, before);
    if (place != all->end() && (*place)->adapter == id) {
      found.push_back(*place);
    }
  }
  return found;
}

std::optional<CheapReading> AdaptedWeight::cheap_reading() const {
  CheapReading reading{base_, {}};
  for (const auto& a : active()) {
    const auto form =
        a->method->cheap_form(a->parameters, layout_, a->scale.load());
    if (const auto* low_rank = std::get_if<LowRank>(&form)) {
      reading.terms.push_back(
          {low_rank->A, low_rank->B, low_rank->scale, a->dropout_now()});
    } else if (const auto* replaced = std::get_if<Replaced>(&form)) {
      reading = {replaced->weight, {}};
    } else {
      return std::nullopt;
    }
  }
  return reading;
}

at::Tensor AdaptedWeight::effective() const {
  at::Tensor weight = base_;
  bool added = false;
  for (const auto& a : active()) {
    const double scale = a->scale.load();
    const auto form = a->method->cheap_form(a->parameters, layout_, scale);
    if (const auto* replaced = std::get_if<Replaced>(&form)) {
      weight = replaced->weight;
    } else {
      weight = a->method->effective(weight, a->parameters, layout_, scale);
      added = true;
    }
  }
  formed += added ? 1 : 0;
  return weight;
}

at::Tensor AdaptedWeight::written() const {
  at::Tensor weight = base_;
  for (const auto& a : active()) {
    const auto form = a->method->cheap_form(a->parameters, layout_, 1.0);
    if (const auto* replaced = std::get_if<Replaced>(&form)) {
      weight = replaced->weight;
    }
  }
  return weight;
}

}  // namespace peft::detail
