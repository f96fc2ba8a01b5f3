// SPDX-License-Identifier: Apache-2.0
// What an adapter does between the steps of training: AdaLoRA's ranks.
#include "base/text.h"
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
            "[",
            asking,
            "] adapter '",
            name,
            "' is a ",
            record.config->inference_mode ? "frozen " : "",
            record.config->peft_type(),
            " adapter; only a trainable ADALORA adapter has ranks to share "
            "out"));
  }
  return *record.schedule;
}

}  // namespace

void Adapters::update_and_allocate(
    std::int64_t step,
    const std::string& adapter_name) {
  schedule_of(*state_, adapter_name, "update_and_allocate").after_step(step);
}

at::Tensor Adapters::orthogonal_regularization(
    const std::string& adapter_name) const {
  return schedule_of(*state_, adapter_name, "orthogonal_regularization")
      .regularization();
}

StateDict Adapters::training_state(const std::string& adapter_name) const {
  StateDict state;
  for (auto& [name, tensor] :
       schedule_of(*state_, adapter_name, "training_state").state()) {
    state.insert(name, std::move(tensor));
  }
  return state;
}

void Adapters::load_training_state(
    const StateDict& state,
    const std::string& adapter_name) {
  detail::NamedTensors tensors;
  for (const auto& item : state) {
    tensors.emplace_back(item.key(), item.value());
  }
  schedule_of(*state_, adapter_name, "load_training_state").load(tensors);
}

}  // namespace peft
