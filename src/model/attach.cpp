// SPDX-License-Identifier: Apache-2.0
#include "model/attach.h"

#include <algorithm>

#include "model/own_bases.h"

namespace peft::detail {

namespace {

// Values that were read are those of the dtype and device that the model had.
std::function<bool()> readiness_of(const AdapterRecord& record) {
  if (!record.source) {
    return nullptr;
  }
  if (record.source->bytes == 0 || record.targets.empty()) {
    return [] { return false; };
  }
  const at::Tensor base = record.targets.front().base;
  return [base, device = base.device(), dtype = base.scalar_type()] {
    return base.device() == device && base.scalar_type() == dtype;
  };
}

}  // namespace

void attach(ModelState& state, AdapterRecord& record, AdapterId id) {
  const auto order =
      state.orders.try_emplace(record.config->peft_type(), state.orders.size())
          .first->second;
  const bool is_resident = !record.source || record.source->bytes > 0;
  link_own_bases(record.targets);
  auto adapter = std::make_shared<AttachedAdapter>(
      id,
      order,
      is_resident,
      record.source ? record.source->last_use : nullptr);
  for (const Target& target : record.targets) {
    adapter->add(target.weight->id(), target.attachment);
    if (target.bias) {
      adapter->add(target.bias->id(), target.bias_attachment);
    }
  }
  record.attached = std::move(adapter);
  state.roster.put(record.name, record.attached, readiness_of(record));
  Choice next = *state.activation->load();
  for (auto& active : next.adapters) {
    if (active->id() == id) {
      active = record.attached;
      state.activation->store(std::move(next));
      return;
    }
  }
}

void make_schedule(AdapterRecord& record) {
  const auto make = method_entry(*record.config).make_schedule;
  if (!make || record.config->inference_mode) {
    return;
  }
  std::vector<ScheduledWeight> weights;
  for (const Target& target : record.targets) {
    if (target.of_method()) {
      weights.push_back({target.file_prefix, target.attachment->parameters});
    }
  }
  record.schedule = make(*record.config, std::move(weights));
}

}  // namespace peft::detail
