// SPDX-License-Identifier: Apache-2.0
#include "hosting/adapted_weight.h"

#include <algorithm>

#include <ATen/ops/cat.h>
#include <torch/nn/modules/dropout.h>

#include "peft/error.h"

namespace peft::detail {
namespace {

std::atomic<std::int64_t> formed{0};

bool before(const std::shared_ptr<const Attachment>& a, AdapterId id) {
  return a->adapter < id;
}

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

bool turn_to_matrix(Step& step) {
  if (auto* low_rank = std::get_if<LowRankStep>(&step)) {
    LowRank& form = low_rank->form;
    if (form.bias.defined() || form.A0.defined() || form.gain.defined()) {
      return false;
    }
    const at::Tensor A = form.A;
    form.A = form.B.t();
    form.B = A.t();
    return true;
  }
  return !std::holds_alternative<Gain>(step);
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

bool turn_to_matrix(Steps& steps) {
  for (Step& step : steps) {
    if (!turn_to_matrix(step)) {
      return false;
    }
  }
  return true;
}

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
  // Behind what the adapter has here already: in the order they were given.
  const auto place = std::upper_bound(
      next.begin(),
      next.end(),
      attachment->adapter,
      [](AdapterId id, const auto& other) { return id < other->adapter; });
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
    // Several where the projections of an attention share one bias.
    for (auto place = std::lower_bound(all->begin(), all->end(), id, before);
         place != all->end() && (*place)->adapter == id;
         ++place) {
      check_filled(**place);
      found.push_back(*place);
    }
  }
  return found;
}

Application AdaptedWeight::application(const Attachment& attachment) const {
  return {
      base_,
      attachment.layout ? *attachment.layout : layout_,
      attachment.parameters,
      norms_,
      attachment.scale->load()};
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

std::optional<CheapReading> AdaptedWeight::cheap_reading() const {
  CheapReading reading{base_, {}};
  for (const auto& a : active()) {
    auto form = a->method->cheap_form(application(*a));
    if (const auto* replaced = std::get_if<Replaced>(&form)) {
      reading = {replaced->weight, {}};
    } else if (auto step = step_of(*a, std::move(form))) {
      reading.steps.push_back(std::move(*step));
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
    const Application on = application(*a);
    if (a->bias_rows) {
      weight = with_rows(weight, *a->bias_rows, [&](const at::Tensor& rows) {
        return a->method->effective_bias(rows, on);
      });
    } else {
      const at::Tensor before = weight;
      weight = a->method->effective(before, on);
      added |= !a->method->replaces();
    }
  }
  formed += added ? 1 : 0;
  return weight;
}

at::Tensor AdaptedWeight::written() const {
  at::Tensor weight = base_;
  for (const auto& a : active()) {
    if (a->method->replaces()) {
      weight = a->method->effective(weight, application(*a));
    }
  }
  return weight;
}

}  // namespace peft::detail
