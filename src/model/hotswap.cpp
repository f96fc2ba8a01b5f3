// SPDX-License-Identifier: Apache-2.0
#include "model/hotswap.h"

#include <algorithm>

#include "base/text.h"
#include "hosting/module_host.h"
#include "model/about_adapter.h"
#include "model/attach.h"
#include "model/injection.h"
#include "model/residence.h"
#include "model/swap.h"
#include "model/wrapper_names.h"
#include "peft/hotswap.h"

namespace peft {
namespace detail {

LoadReport hotswap(
    ModelState& state,
    AdapterRecord& record,
    const AdapterConfig& config,
    const StateDict& weights,
    const Host* host,
    const char* asking) {
  if (config.peft_type() != record.config->peft_type()) {
    throw Error(
        ErrorKind::config,
        concat(
            about_adapter(asking, record.name),
            " is of method ",
            record.config->peft_type(),
            ", the new one of ",
            config.peft_type(),
            "; load it under another name"));
  }
  check_not_merged(state, record, asking);
  check_not_attached(record, asking);
  if (weights.is_empty()) {
    throw Error(
        ErrorKind::state,
        concat(
            "[",
            asking,
            "] the state dict for adapter '",
            record.name,
            "' is empty"));
  }
  Swap swap(record, config, asking);
  LoadReport report = swap.plan(weights, host);
  swap.commit(state);
  return report;
}

void check_not_merged(
    const ModelState& state,
    const AdapterRecord& record,
    const char* asking) {
  if (state.is_merged(record)) {
    throw Error(
        ErrorKind::state,
        concat(
            about_adapter(asking, record.name),
            " is merged; call unmerge_adapter first"));
  }
}

void take_over(
    ModelState& state,
    const std::string& next,
    const std::string& name) {
  AdapterRecord& from = *state.find(name);
  AdapterRecord& to = *state.find(next);
  auto choice = *state.activation->load();
  const auto active =
      std::find(choice.adapters.begin(), choice.adapters.end(), from.attached);
  const bool is_active = active != choice.adapters.end();
  if (is_active) {
    make_resident(state, {&to});
  }
  to.name = name;
  attach(state, to, to.attached->id());
  state.roster.erase(next);
  if (is_active) {
    *active = to.attached;
    state.activation->store(std::move(choice));
  }
  remove_from_layers(from);
  std::erase_if(
      state.adapters, [&](const auto& a) { return a.get() == &from; });
}

void read_values(
    ModelState& state,
    AdapterRecord& record,
    const StateDict& weights) {
  Swap swap(record, *record.config, "attach_adapter");
  swap.plan(weights, /*host=*/nullptr);
  swap.commit(state);
}

}  // namespace detail

LoadReport hotswap_adapter(
    torch::nn::Module& model,
    const StateDict& weights,
    const AdapterConfig& config,
    const std::string& adapter_name) {
  const detail::ModuleHost host(model);
  const auto state = detail::get_state(host);
  const auto turn = state->lock();
  return detail::hotswap(
      *state,
      state->get(adapter_name, "hotswap_adapter"),
      config,
      detail::without_wrapper_names(
          weights, [&] { return detail::module_paths(host.layers()); }),
      &host,
      "hotswap_adapter");
}

}  // namespace peft
