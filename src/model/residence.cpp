// SPDX-License-Identifier: Apache-2.0
// Which attached adapters have their values in memory.
#include "model/residence.h"

#include <algorithm>

#include "base/text.h"
#include "model/about_adapter.h"
#include "model/attach.h"
#include "model/hotswap.h"
#include "model/make_target.h"
#include "peft/attach.h"

namespace peft {
namespace detail {
namespace {

bool is_in_use(const ModelState& state, const AdapterRecord& record) {
  const auto& active = state.activation->load()->adapters;
  return state.is_merged(record) ||
      std::find(active.begin(), active.end(), record.attached) != active.end();
}

void let_go(ModelState& state, AdapterRecord& record) {
  for (std::size_t i = 0; i < record.targets.size(); ++i) {
    const double scale = record.targets[i].attachment->scale;
    record.targets[i].attachment = record.source->empty[i];
    record.targets[i].attachment->scale = scale;
    record.targets[i].bias_attachment = record.source->empty_biases[i];
  }
  record.source->bytes = 0;
  attach(state, record, record.attached->id());
}

std::int64_t resident(const ModelState& state) {
  std::int64_t bytes = 0;
  for (const auto& adapter : state.adapters) {
    bytes += adapter->source ? adapter->source->bytes : 0;
  }
  return bytes;
}

// Room for `bytes` more, without letting go of `kept`.
void make_room(
    ModelState& state,
    std::int64_t bytes,
    const std::vector<AdapterRecord*>& kept) {
  if (!state.memory_budget) {
    return;
  }
  const std::int64_t allowed = *state.memory_budget - bytes;
  while (resident(state) > std::max<std::int64_t>(allowed, 0)) {
    AdapterRecord* oldest = nullptr;
    for (const auto& adapter : state.adapters) {
      const bool stays =
          std::find(kept.begin(), kept.end(), adapter.get()) != kept.end();
      if (!stays && adapter->source && adapter->source->bytes > 0 &&
          !is_in_use(state, *adapter) &&
          (!oldest || *adapter->source->last_use < *oldest->source->last_use)) {
        oldest = adapter.get();
      }
    }
    if (!oldest) {
      return;  // all that is left is in use
    }
    let_go(state, *oldest);
  }
}

// The model may have been moved or cast since.
bool is_where_its_base_is(const AdapterRecord& record) {
  for (const Target& target : record.targets) {
    for (std::size_t i = 0; i < target.specs.size(); ++i) {
      const at::Tensor& tensor = target.attachment->parameters[i];
      const auto dtype =
          made_dtype(target, target.specs[i], record.autocast_dtype);
      if (tensor.device() != target.base.device() ||
          (tensor.is_floating_point() && target.base.is_floating_point() &&
           tensor.scalar_type() != dtype)) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace

void check_not_attached(const AdapterRecord& record, const char* asking) {
  if (record.source) {
    throw Error(
        ErrorKind::state,
        concat(
            about_adapter(asking, record.name),
            " was attached to a folder, which its values are read from: give "
            "hotswap_adapter another folder, or load it with load_adapter to "
            "change its values"));
  }
}

std::int64_t size_of(const AdapterRecord& record) {
  std::int64_t bytes = 0;
  for (const Target& target : record.targets) {
    if (!target.tied_to) {
      for (const at::Tensor& tensor : target.attachment->parameters) {
        bytes += static_cast<std::int64_t>(tensor.nbytes());
      }
    }
  }
  return bytes;
}

void make_resident(
    ModelState& state,
    const std::vector<AdapterRecord*>& records) {
  for (AdapterRecord* record : records) {
    if (!record->source) {
      continue;
    }
    record->attached->touch(state.clock);
    if (record->source->bytes == 0 || !is_where_its_base_is(*record)) {
      make_room(state, size_of(*record), records);
      read_values(state, *record, record->source->read());
    }
  }
}

}  // namespace detail

using namespace detail;

void set_memory_budget(
    const Adapters& adapters,
    std::optional<std::int64_t> bytes) {
  ModelState& state = *adapters.state();
  const auto turn = state.lock();
  if (bytes && *bytes < 0) {
    throw Error(
        ErrorKind::config,
        concat("[set_memory_budget] ", *bytes, " bytes; give none or more"));
  }
  state.memory_budget = bytes;
  make_room(state, 0, {});
}

std::int64_t resident_bytes(const Adapters& adapters) {
  const auto turn = adapters.state()->lock();
  return resident(*adapters.state());
}

bool is_resident(const Adapters& adapters, const std::string& name) {
  const auto turn = adapters.state()->lock();
  return adapters.state()->get(name, "is_resident").attached->is_resident();
}

void evict(const Adapters& adapters, const std::string& name) {
  ModelState& state = *adapters.state();
  const auto turn = state.lock();
  AdapterRecord& record = state.get(name, "evict");
  if (!record.source || is_in_use(state, record)) {
    throw Error(
        ErrorKind::state,
        concat(
            about_adapter("evict", name),
            record.source
                ? " is active or merged; switch to another first"
                : " was not attached by attach_adapter, so nothing "
                  "could read it again; delete_adapter takes it out"));
  }
  if (record.source->bytes > 0) {
    let_go(state, record);
  }
}

}  // namespace peft
