// SPDX-License-Identifier: Apache-2.0
// AdaLoRA's budget of ranks. A triplet is one singular value with its row of A
// and column of B. With |p dL/dp| of every element, smoothed:
//
//   I  <- beta1 I + (1 - beta1) |p dL/dp|             sensitivity
//   U  <- beta2 U + (1 - beta2) | |p dL/dp| - I |     uncertainty
//   score of triplet i = S(E_i) + mean_j S(A_ij) + mean_j S(B_ji),  S = I U
//
// and the values of the triplets with the lowest scores, over all weights, are
// set to zero so that budget(t) are left: init_r a weight until tinit, then
//   target + (init - target) (1 - (t - tinit) / (T - tfinal - tinit))^3,
// from T - tfinal on the target, and the choice is kept.
#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include "base/text.h"
#include "methods/adalora.h"
#include "methods/holds_values.h"
#include "peft/adalora_config.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

constexpr std::array<const char*, 3> names = {"lora_A", "lora_E", "lora_B"};

// One stored tensor with its running importance.
struct Part {
  at::Tensor parameter;
  at::Tensor sensitivity;
  at::Tensor uncertainty;

  at::Tensor score() const { return sensitivity * uncertainty; }
};

struct Triplets {
  std::string file_prefix;
  std::function<bool()> has_run;
  std::array<Part, 3> parts;                   // A, E, B
  std::optional<std::vector<bool>> kept = {};  // not set: all, so far
  std::vector<bool> original = {};  // which of init_r these are; empty: all

  at::Tensor scores() const {
    return parts[1].score().view(-1) +
        (parts[0].score().mean(1) + parts[2].score().mean(0));
  }
};

class RankAllocator final : public Schedule {
 public:
  RankAllocator(AdaLoraConfig& config, std::vector<ScheduledWeight> weights)
      : config_(config) {
    for (auto& weight : weights) {
      Triplets triplets{
          .file_prefix = std::move(weight.file_prefix),
          .has_run = std::move(weight.has_run)};
      for (std::size_t i = 0; i < names.size(); ++i) {
        const at::Tensor& p = weight.parameters[i];
        const at::NoGradGuard no_grad;
        triplets.parts[i] = {p, at::zeros_like(p), at::zeros_like(p)};
      }
      if (const auto* mask = mask_of(config_, triplets.file_prefix)) {
        triplets.original = *mask;
      }
      weights_.push_back(std::move(triplets));
    }
  }

  void after_step(std::int64_t step) override {
    const std::int64_t last = total_steps() - config_.tfinal;
    const at::NoGradGuard no_grad;
    if (step < last) {
      check_gradients();
      update_importance();
    }
    if (step > last) {
      mask_again();
    } else if (step == last || is_masked_at(step)) {
      mask_to(budget(step));
    }
    if (step == last) {
      reset_importance();
    }
  }

  at::Tensor regularization() const override {
    std::vector<at::Tensor> terms;
    for (const Triplets& triplets : weights_) {
      const at::Tensor& A = triplets.parts[0].parameter;
      const at::Tensor& B = triplets.parts[2].parameter;
      const at::Tensor one = at::eye(A.size(0), A.options());
      terms.push_back((A.matmul(A.t()) - one).norm());
      terms.push_back((B.t().matmul(B) - one).norm());
    }
    return at::stack(terms).mean() * config_.orth_reg_weight;
  }

  NamedTensors state() const override {
    NamedTensors state;
    for (const auto& item : entries()) {
      state.emplace_back(item.first, item.second.detach().clone());
    }
    for (const Triplets& triplets : weights_) {
      if (triplets.kept) {
        state.emplace_back(mask_name(triplets), as_tensor(*triplets.kept));
      }
    }
    return state;
  }

  void load(const NamedTensors& state) override {
    const auto find = [&](const std::string& name) -> const at::Tensor* {
      const auto found =
          std::find_if(state.begin(), state.end(), [&](const auto& item) {
            return item.first == name;
          });
      return found == state.end() ? nullptr : &found->second;
    };
    Mistakes mistakes(ErrorKind::shape, "[load_training_state]");
    for (const auto& [name, tensor] : entries()) {
      const at::Tensor* given = find(name);
      if (!given) {
        mistakes.add(concat("'", name, "' is missing"));
      } else if (given->sizes() != tensor.sizes()) {
        mistakes.add(concat(
            "'",
            name,
            "' is ",
            given->sizes(),
            ", the adapter's is ",
            tensor.sizes()));
      } else if (!holds_values(tensor.scalar_type(), *given)) {
        mistakes.add(concat(
            "'", name, "': ", cannot_hold(tensor.scalar_type(), *given)));
      }
    }
    mistakes.raise_if_any();
    const at::NoGradGuard no_grad;
    for (const auto& [name, tensor] : entries()) {
      at::Tensor to = tensor;
      to.copy_(*find(name));
    }
    for (Triplets& triplets : weights_) {
      triplets.kept.reset();
      if (const at::Tensor* mask = find(mask_name(triplets))) {
        triplets.kept = as_mask(*mask);
      }
    }
    note_ranks();
  }

 private:
  std::int64_t total_steps() const { return config_.total_step.value(); }

  std::int64_t ranks_at_start() const {
    std::int64_t ranks = 0;
    for (const Triplets& triplets : weights_) {
      ranks += triplets.parts[0].parameter.size(0);
    }
    return ranks;
  }

  // How many triplets are to be left at `step`.
  std::int64_t budget(std::int64_t step) const {
    const std::int64_t start = ranks_at_start();
    const std::int64_t target =
        config_.target_r * static_cast<std::int64_t>(weights_.size());
    const std::int64_t end = total_steps() - config_.tfinal;
    if (step <= config_.tinit) {
      return start;
    }
    if (step > end) {
      return target;
    }
    const double left = 1 -
        static_cast<double>(step - config_.tinit) /
            static_cast<double>(end - config_.tinit);
    return static_cast<std::int64_t>(
        static_cast<double>(start - target) * std::pow(left, 3) +
        static_cast<double>(target));
  }

  bool is_masked_at(std::int64_t step) const {
    return step > config_.tinit && step % config_.deltaT == 0;
  }

  void check_gradients() const {
    std::vector<std::string> never_ran;
    std::vector<std::string> without;
    for (const Triplets& triplets : weights_) {
      const bool all = std::all_of(
          triplets.parts.begin(), triplets.parts.end(), [](const Part& part) {
            return part.parameter.grad().defined();
          });
      if (!all) {
        (triplets.has_run() ? without : never_ran)
            .push_back(triplets.file_prefix);
      }
    }
    Mistakes mistakes(ErrorKind::state, "[update_and_allocate]");
    if (!never_ran.empty()) {
      mistakes.add(concat(
          list_names(never_ran),
          never_ran.size() == weights_.size()
              ? " never ran with the adapter: run the model with it active and "
                "call this after loss.backward()"
              : " never ran with the adapter, so no gradient can say what "
                "their "
                "ranks are worth: run the layers, or name them in the config's "
                "exclude_modules"));
    }
    if (!without.empty()) {
      mistakes.add(concat(
          list_names(without),
          " ran and have no gradient: call this after loss.backward() and "
          "before zero_grad(), with the adapter active and trainable; a layer "
          "that does not take part in every step belongs in exclude_modules"));
    }
    mistakes.raise_if_any();
  }

  void update_importance() {
    for (Triplets& triplets : weights_) {
      for (Part& part : triplets.parts) {
        const at::Tensor now = (part.parameter * part.parameter.grad()).abs();
        part.sensitivity.mul_(config_.beta1).add_(now, 1 - config_.beta1);
        part.uncertainty.mul_(config_.beta2)
            .add_((now - part.sensitivity).abs(), 1 - config_.beta2);
      }
    }
  }

  void reset_importance() {
    for (Triplets& triplets : weights_) {
      for (Part& part : triplets.parts) {
        part.sensitivity.zero_();
        part.uncertainty.zero_();
      }
    }
  }

  void mask_to(std::int64_t budget) {
    const std::int64_t drop = ranks_at_start() - budget;
    std::vector<at::Tensor> scores;
    for (const Triplets& triplets : weights_) {
      scores.push_back(triplets.scores());
    }
    const at::Tensor threshold = drop > 0
        ? std::get<0>(at::cat(scores).kthvalue(drop))
        : at::cat(scores).min() - 1;  // below every score: nothing goes
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      weights_[i].kept = as_mask(scores[i] > threshold);
    }
    mask_again();
    note_ranks();
  }

  void mask_again() {
    for (Triplets& triplets : weights_) {
      if (triplets.kept) {
        at::Tensor& E = triplets.parts[1].parameter;
        E.masked_fill_(
            as_tensor(*triplets.kept).logical_not().unsqueeze(1).to(E.device()),
            0);
      }
    }
  }

  // The config says which ranks are left: that is what is saved.
  void note_ranks() {
    config_.rank_pattern.clear();
    for (const Triplets& triplets : weights_) {
      if (triplets.kept) {
        config_.rank_pattern.emplace_back(
            triplets.file_prefix + ".lora_E", of_initial_ranks(triplets));
      }
    }
  }

  // An adapter that was loaded has lost ranks before: its mask speaks of all
  // that there were.
  static std::vector<bool> of_initial_ranks(const Triplets& triplets) {
    std::vector<bool> mask = triplets.original;
    const std::vector<bool>& kept = *triplets.kept;
    if (mask.size() <= kept.size()) {
      return kept;
    }
    std::size_t next = 0;
    for (std::size_t i = 0; i < mask.size(); ++i) {
      if (mask[i]) {
        mask[i] = kept[next++];
      }
    }
    return mask;
  }

  // Every tensor of the state except masks: live, not copied.
  NamedTensors entries() const {
    NamedTensors found;
    for (const Triplets& triplets : weights_) {
      for (std::size_t i = 0; i < names.size(); ++i) {
        const std::string name = concat(triplets.file_prefix, ".", names[i]);
        const Part& part = triplets.parts[i];
        found.emplace_back(name, part.parameter);
        found.emplace_back(name + ".sensitivity", part.sensitivity);
        found.emplace_back(name + ".uncertainty", part.uncertainty);
      }
    }
    return found;
  }

  static std::string mask_name(const Triplets& triplets) {
    return triplets.file_prefix + ".lora_E.kept";
  }

  static at::Tensor as_tensor(const std::vector<bool>& mask) {
    at::Tensor tensor =
        at::empty({static_cast<std::int64_t>(mask.size())}, at::kBool);
    std::copy(mask.begin(), mask.end(), tensor.data_ptr<bool>());
    return tensor;
  }

  static std::vector<bool> as_mask(const at::Tensor& tensor) {
    const at::Tensor host = tensor.to(at::kCPU, at::kBool).contiguous();
    const bool* data = host.const_data_ptr<bool>();
    return std::vector<bool>(data, data + host.numel());
  }

  AdaLoraConfig& config_;
  std::vector<Triplets> weights_;
};

}  // namespace

std::unique_ptr<Schedule> make_rank_allocator(
    AdapterConfig& config,
    std::vector<ScheduledWeight> weights) {
  return std::make_unique<RankAllocator>(
      dynamic_cast<AdaLoraConfig&>(config), std::move(weights));
}

}  // namespace peft::detail
