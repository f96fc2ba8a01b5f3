// SPDX-License-Identifier: Apache-2.0
// What an adapter does between the steps of training: AdaLoRA's ranks.
#include <ATen/core/grad_mode.h>

#include "base/text.h"
#include "methods/holds_values.h"
#include "model/about_adapter.h"
#include "model/adapter_tensors.h"
#include "model/model_state.h"
#include "peft/adapters.h"

namespace peft {
namespace {

detail::Schedule& schedule_of(
    const detail::ModelState& state,
    const std::string& name,
    const char* asking) {
  const detail::AdapterRecord& record = state.get(name, asking);
  if (!record.schedule) {
    throw Error(
        ErrorKind::state,
        detail::concat(
            detail::about_adapter(asking, name),
            " is a ",
            record.config->inference_mode ? "frozen " : "",
            record.config->peft_type(),
            " adapter; only a trainable ADALORA adapter has ranks to share "
            "out"));
  }
  detail::check_filled(record, asking);
  return *record.schedule;
}

// What the adapter trains beside its ranks: saved modules, rows of tokens,
// biases. By the keys of files.
StateDict trained_beside(const detail::AdapterRecord& record) {
  StateDict found;
  for (const detail::Target& target : record.targets) {
    const bool is_trained = target.role != detail::Role::adapter &&
        target.role != detail::Role::own_base;
    if (!is_trained || target.tied_to) {
      continue;
    }
    for (std::size_t i = 0; i < target.specs.size(); ++i) {
      const std::string& name = target.specs[i].file_name;
      if (!name.empty()) {
        found.insert(
            detail::join_path(target.file_prefix, name),
            target.attachment->parameters[i]);
      }
    }
  }
  return found;
}

}  // namespace

void Adapters::update_and_allocate(
    std::int64_t step,
    const std::string& adapter_name) {
  const auto turn = state_->lock();
  schedule_of(*state_, adapter_name, "update_and_allocate").after_step(step);
}

at::Tensor Adapters::orthogonal_regularization(
    const std::string& adapter_name) const {
  const auto turn = state_->lock();
  return schedule_of(*state_, adapter_name, "orthogonal_regularization")
      .regularization();
}

StateDict Adapters::training_state(const std::string& adapter_name) const {
  const auto turn = state_->lock();
  StateDict state;
  for (auto& [name, tensor] :
       schedule_of(*state_, adapter_name, "training_state").state()) {
    state.insert(name, std::move(tensor));
  }
  for (const auto& item :
       trained_beside(state_->get(adapter_name, "training_state"))) {
    state.insert(item.key(), item.value().detach().clone());
  }
  return state;
}

void Adapters::load_training_state(
    const StateDict& state,
    const std::string& adapter_name) {
  const auto turn = state_->lock();
  detail::NamedTensors tensors;
  detail::Schedule& schedule =
      schedule_of(*state_, adapter_name, "load_training_state");
  const StateDict beside =
      trained_beside(state_->get(adapter_name, "load_training_state"));
  for (const auto& item : beside) {
    const at::Tensor* given = state.find(item.key());
    const bool fits = given && given->sizes() == item.value().sizes();
    if (!fits || !detail::holds_values(item.value().scalar_type(), *given)) {
      throw Error(
          ErrorKind::shape,
          detail::concat(
              "[load_training_state] '",
              item.key(),
              fits        ? "' has values that the adapter's dtype cannot hold"
                  : given ? "' has another shape"
                          : "' is missing",
              "; the state is not one of an adapter with this config"));
    }
  }
  for (const auto& item : state) {
    if (!beside.contains(item.key())) {
      tensors.emplace_back(item.key(), item.value());
    }
  }
  schedule.load(tensors);
  const at::NoGradGuard no_grad;
  for (const auto& item : beside) {
    at::Tensor to = item.value();
    to.copy_(state[item.key()]);
  }
}

}  // namespace peft
