// SPDX-License-Identifier: Apache-2.0
// What the handle answers, and every operation by model.
#include "peft/adapters.h"

#include <set>

#include "hosting/module_host.h"
#include "hosting/replace_data.h"
#include "model/adapter_tensors.h"
#include "model/make_target.h"
#include "model/model_state.h"
#include "model/residence.h"
#include "model/status.h"

namespace peft {

using detail::AdapterRecord;
using detail::ModelState;
using detail::Target;

Adapters::Adapters(std::shared_ptr<ModelState> state)
    : state_(std::move(state)) {}

std::vector<at::Tensor> Adapters::trainable_parameters() const {
  const auto turn = state_->lock();
  std::vector<at::Tensor> found;
  std::set<const void*> seen;
  for (const auto& adapter : state_->adapters) {
    for (const auto& item : detail::adapter_tensors(*adapter)) {
      if (item.value().requires_grad() &&
          seen.insert(item.value().unsafeGetTensorImpl()).second) {
        found.push_back(item.value());
      }
    }
  }
  return found;
}

std::vector<at::Tensor> Adapters::parameters(const std::string& name) const {
  const auto turn = state_->lock();
  AdapterRecord& record = state_->get(name, "parameters");
  detail::make_resident(*state_, {&record});
  return detail::adapter_tensors(record).values();
}

std::vector<std::string> Adapters::names() const {
  const auto turn = state_->lock();
  return state_->names();
}

std::vector<std::string> Adapters::active_adapters() const {
  const auto turn = state_->lock();
  return detail::active_names(*state_);
}

bool Adapters::enabled() const {
  return state_->activation->load()->enabled;
}

const AdapterConfig& Adapters::config(const std::string& name) const {
  const auto turn = state_->lock();
  return state_->published_config(state_->get(name, "config"));
}

MatchReport Adapters::report(const std::string& name) const {
  const auto turn = state_->lock();
  return state_->get(name, "report").report;
}

void Adapters::set_requires_grad(const std::string& name, bool requires_grad) {
  const auto turn = state_->lock();
  AdapterRecord& record = state_->get(name, "set_requires_grad");
  detail::check_not_attached(record, "set_requires_grad");
  record.trains = requires_grad;
  for (const Target& target : record.targets) {
    for (std::size_t i = 0; i < target.specs.size(); ++i) {
      const at::Tensor& tensor = target.attachment->parameters[i];
      if (!target.specs[i].is_buffer && tensor.is_floating_point()) {
        tensor.set_requires_grad(requires_grad);
      }
    }
  }
}

void Adapters::cast_adapter_dtype(
    const std::string& name,
    bool autocast_adapter_dtype) {
  const auto turn = state_->lock();
  AdapterRecord& record = state_->get(name, "cast_adapter_dtype");
  detail::check_not_attached(record, "cast_adapter_dtype");
  if (!autocast_adapter_dtype) {
    return;
  }
  record.autocast_dtype = true;
  for (const Target& target : record.targets) {
    for (std::size_t i = 0; i < target.specs.size(); ++i) {
      const at::Tensor& tensor = target.attachment->parameters[i];
      const auto dtype = detail::made_dtype(target, target.specs[i], true);
      if (tensor.is_floating_point() && tensor.itemsize() < 4 &&
          dtype == at::kFloat) {
        detail::replace_data(tensor, tensor.detach().to(dtype));
      }
    }
  }
}

Adapters adapters_of(const torch::nn::Module& model) {
  return Adapters(detail::get_state(detail::ModuleHost(model)));
}

void set_adapter(torch::nn::Module& model, const std::string& name) {
  adapters_of(model).set_adapter(name);
}

void set_adapter(
    torch::nn::Module& model,
    const std::vector<std::string>& names) {
  adapters_of(model).set_adapter(names);
}

void set_adapter(
    torch::nn::Module& model,
    std::initializer_list<std::string> names) {
  adapters_of(model).set_adapter(names);
}

void enable_adapters(torch::nn::Module& model, bool enabled) {
  adapters_of(model).enable_adapters(enabled);
}

void delete_adapter(torch::nn::Module& model, const std::string& name) {
  adapters_of(model).delete_adapter(name);
}

void unload(torch::nn::Module& model) {
  adapters_of(model).unload();
}

void set_requires_grad(
    torch::nn::Module& model,
    const std::vector<std::string>& names,
    bool requires_grad) {
  Adapters adapters = adapters_of(model);
  const auto turn = adapters.state()->lock();
  for (const auto& name : names) {
    adapters.state()->get(name, "set_requires_grad");
  }
  for (const auto& name : names) {
    adapters.set_requires_grad(name, requires_grad);
  }
}

}  // namespace peft
