// SPDX-License-Identifier: Apache-2.0
#include "model/model_state.h"

#include <algorithm>

#include "base/text.h"
#include "base/warning.h"
#include "hosting/adapted_tensor.h"
#include "hosting/program_layers.h"
#include "model/choose.h"
#include "peft/error.h"

namespace peft::detail {

const std::shared_ptr<ModelState>& StatePointer::shared() const {
  if (!state_) {
    throw Error(
        ErrorKind::state,
        "this peft::Adapters is empty: it was made without a model; assign it "
        "what inject_adapter_in_model, load_adapter or adapters_of(model) "
        "returns first");
  }
  return state_;
}

AdapterRecord* ModelState::find(const std::string& name) const {
  for (const auto& adapter : adapters) {
    if (adapter->name == name) {
      return adapter.get();
    }
  }
  return nullptr;
}

AdapterRecord* ModelState::find(AdapterId id) const {
  for (const auto& adapter : adapters) {
    if (adapter->attached && adapter->attached->id() == id) {
      return adapter.get();
    }
  }
  return nullptr;
}

AdapterRecord& ModelState::get(const std::string& name, const char* asking)
    const {
  if (AdapterRecord* found = find(name)) {
    return *found;
  }
  throw Error(
      ErrorKind::state,
      concat("[", asking, "] ", no_such_adapter(*this, name)));
}

const AdapterConfig& ModelState::published_config(const AdapterRecord& record) {
  auto& published = published_[to_json(*record.config)];
  if (!published) {
    published = record.config->clone();
  }
  return *published;
}

std::vector<std::string> ModelState::names() const {
  std::vector<std::string> names;
  for (const auto& adapter : adapters) {
    names.push_back(adapter->name);
  }
  return names;
}

std::vector<std::string> ModelState::names(const AttachedAdapters& some) const {
  std::vector<std::string> names;
  for (const auto& attached : some) {
    if (const AdapterRecord* record = find(attached->id())) {
      names.push_back(record->name);
    }
  }
  return names;
}

bool ModelState::is_merged(const AdapterRecord& record) const {
  const auto choice = activation->load();
  if (!choice->merged) {
    return false;
  }
  const auto& merged = choice->merged->adapters();
  return std::any_of(merged.begin(), merged.end(), [&](const auto& adapter) {
    return adapter->id() == record.attached->id();
  });
}

std::vector<std::shared_ptr<const Attachment>> ModelState::attachments_on(
    WeightId weight) const {
  const auto turn = lock();
  std::vector<std::shared_ptr<const Attachment>> found;
  for (const auto& adapter : adapters) {
    const auto own = adapter->attached->on(weight);
    found.insert(found.end(), own.begin(), own.end());
  }
  return found;
}

// A forward may be what sets the weight anew, so this waits for nobody: audit()
// tells too.
void ModelState::stand_in_gone(WeightId weight) noexcept {
  try {
    const std::unique_lock turn(operations, std::try_to_lock);
    if (!turn || tree) {
      return;  // a script's objects end before the modules that show them
    }
    for (const auto& adapter : adapters) {
      for (const Target& target : adapter->targets) {
        if (target.weight->id() != weight) {
          continue;
        }
        const auto layer = target.layer.lock();
        if (layer && !as_program_layer(*layer)) {
          warn(set_anew_text(join_path(target.layer_path, target.tensor_name)));
          return;
        }
      }
    }
  } catch (...) {  // the warning's handler
  }
}

bool is_set_anew(const Site& site) {
  const at::Tensor now = site.place->get();
  const auto* adapted = as_adapted(now);
  return now.defined() && (!adapted || adapted->weight() != site.weight);
}

bool is_set_anew(const ModelState& state, const Target& target) {
  return std::any_of(
      state.sites.begin(), state.sites.end(), [&](const Site& site) {
        return site.weight == target.weight && is_set_anew(site);
      });
}

std::string set_anew_text(const std::string& tensor) {
  return concat(
      "'",
      tensor,
      "' was set anew (layer->weight = ..., or a move of a recurrent layer), "
      "so its adapters do nothing; give adapters to the parameters that it is "
      "computed from: peft::register_layer<Layer>({{\"v\", &Layer::v}}) and "
      "target_parameters, see docs/targets.md");
}

std::shared_ptr<const AttachedAdapter> Roster::find(
    const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = all_.find(name);
  const bool is_ready = found != all_.end() &&
      (!found->second.is_ready || found->second.is_ready());
  return is_ready ? found->second.adapter : nullptr;
}

void Roster::put(
    const std::string& name,
    std::shared_ptr<const AttachedAdapter> adapter,
    std::function<bool()> is_ready) {
  const std::lock_guard lock(mutex_);
  all_[name] = {std::move(adapter), std::move(is_ready)};
}

void Roster::erase(const std::string& name) {
  const std::lock_guard lock(mutex_);
  all_.erase(name);
}

void Roster::clear() {
  const std::lock_guard lock(mutex_);
  all_.clear();
}

std::shared_ptr<ModelState> find_state(const Host& host) {
  const auto is_this = [&](const Owner& owner) {
    const auto* state = dynamic_cast<const ModelState*>(&owner);
    return state && state->model == host.identity();
  };
  if (auto found = host.find_owner(is_this)) {
    return std::static_pointer_cast<ModelState>(found);
  }
  return nullptr;
}

std::shared_ptr<ModelState> get_state(const Host& host) {
  if (auto found = find_state(host)) {
    return found;
  }
  const auto other = host.find_owner([](const Owner& owner) {
    return dynamic_cast<const ModelState*>(&owner) != nullptr;
  });
  if (other) {
    const auto& state = static_cast<const ModelState&>(*other);
    throw Error(
        ErrorKind::state,
        concat(
            "the adapters ",
            list_names(state.names()),
            " in this ",
            host.type(),
            " were injected through another module, a ",
            state.model_type,
            "; pass that module instead"));
  }
  throw Error(
      ErrorKind::state,
      concat(
          "this ",
          host.type(),
          " has no adapters; call "
          "inject_adapter_in_model or load_adapter first"));
}

}  // namespace peft::detail
