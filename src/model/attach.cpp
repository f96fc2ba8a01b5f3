// SPDX-License-Identifier: Apache-2.0
#include "model/attach.h"

#include <algorithm>

#include "model/own_bases.h"

namespace peft::detail {

namespace {

// A target whose tensors tell whether values that were read are still of the
// model's dtype and device. A copy of the model's own does: factors may be
// float32 in a model of less.
const Target& telling_target(const AdapterRecord& record) {
  const auto copy = std::find_if(
      record.targets.begin(), record.targets.end(), [](const Target& target) {
        return target.is_copy() && !target.tied_to &&
            target.base.is_floating_point();
      });
  return copy == record.targets.end() ? record.targets.front() : *copy;
}

std::function<bool()> readiness_of(const AdapterRecord& record) {
  if (!record.source) {
    return nullptr;
  }
  if (record.source->bytes == 0 || record.targets.empty()) {
    return [] { return false; };
  }
  const Target& target = telling_target(record);
  const bool widens = record.autocast_dtype && !target.is_copy();
  return [base = target.base,
          tensor = target.attachment->parameters.front(),
          widens] {
    const auto dtype = base.scalar_type();
    return tensor.device() == base.device() &&
        tensor.scalar_type() == (widens ? exact_dtype(dtype) : dtype);
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
      // The target's attachment is another one after each change of scale.
      weights.push_back(
          {target.file_prefix, target.attachment->parameters, [&target] {
             return target.attachment->was_read.load();
           }});
    }
  }
  record.schedule = make(*record.config, std::move(weights));
}

}  // namespace peft::detail
