// SPDX-License-Identifier: Apache-2.0
#include "model/injection.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>

#include "base/text.h"
#include "base/warning.h"
#include "hosting/adapted_tensor.h"
#include "hosting/module_host.h"
#include "model/adapter_tensors.h"
#include "model/adopt_state_dict.h"
#include "model/fit_to_weights.h"
#include "model/init_data.h"
#include "model/make_target.h"

namespace peft {
namespace detail {
namespace {

void check_names_free(
    const std::vector<MadeTarget>& made,
    const std::string& adapter) {
  Mistakes mistakes(
      ErrorKind::state, concat("cannot inject adapter '", adapter, "'"));
  for (const MadeTarget& m : made) {
    const auto taken = taken_name(m.planned.target.seat(), m.seated);
    if (!taken.empty()) {
      mistakes.add(concat(
          "'",
          m.planned.target.layer_path,
          "' has a submodule '",
          taken,
          "' of its own, where the adapter's is to stand; rename it"));
    }
  }
  mistakes.raise_if_any();
}

std::shared_ptr<AdaptedWeight> weight_at(
    const HostedTensor& hosted,
    ModelState& state) {
  if (const auto* adapted = as_adapted(hosted.place->get())) {
    return adapted->weight();
  }
  auto weight = std::make_shared<AdaptedWeight>(
      hosted.base, hosted.layout.value_or(WeightLayout{}), state.activation);
  state.sites.push_back({hosted.place, weight});
  return weight;
}

void put_adapted(
    const HostedTensor& hosted,
    const std::shared_ptr<AdaptedWeight>& weight,
    const std::shared_ptr<ModelState>& state) {
  if (!as_adapted(hosted.place->get())) {
    hosted.place->put(make_adapted_tensor(weight, state));
  }
}

void put_in_model(
    MadeTarget& made,
    const std::shared_ptr<ModelState>& state,
    AdapterRecord& record) {
  Target& target = made.planned.target;
  const auto& bias = made.planned.bias;
  target.weight = weight_at(made.planned.hosted, *state);
  if (bias) {
    target.bias = weight_at(bias->hosted, *state);
  }
  record.targets.push_back(target);
  target.weight->attach(target.attachment);
  register_adapter(target.seat(), record.name, made.seated, target.weight);
  put_adapted(made.planned.hosted, target.weight, state);
  if (bias) {
    target.bias->attach(target.bias_attachment);
    follow_dtype(target.seat(), made.seated, target.bias);
    put_adapted(bias->hosted, target.bias, state);
  }
}

void freeze_model(ModelState& state, const Host& host) {
  for (const auto& [name, parameter] : host.parameters()) {
    state.own_parameters.emplace_back(parameter, parameter.requires_grad());
    parameter.set_requires_grad(false);
  }
}

void warn_of_report(const std::string& name, const MatchReport& report) {
  for (const auto& text : report.warnings()) {
    warn(concat("adapter '", name, "': ", text));
  }
}

// Everything that changes the model.
void commit(
    std::vector<MadeTarget>& made,
    InjectionPlan& plan,
    const std::shared_ptr<ModelState>& state,
    AdapterRecord& record,
    const Host& host) {
  if (state->adapters.empty()) {
    host.prepare();
    state->tree = host.tree();
  }
  for (MadeTarget& m : made) {
    put_in_model(m, state, record);
    if (const auto owner = m.planned.target.tied_to) {
      const MadeTarget& first = made[*owner];
      follow_dtype(
          first.planned.target.seat(),
          first.seated,
          record.targets.back().weight);
    }
  }
  if (state->own_parameters.empty()) {
    freeze_model(*state, host);
  }
  record.biases = std::move(plan.biases);
  for (const TrainedBias& trained : record.biases) {
    trained.bias.set_requires_grad(!record.config->inference_mode);
  }
}

// The checks are over; what can still fail is memory.
void commit_or_undo(
    std::vector<MadeTarget>& made,
    InjectionPlan& plan,
    const std::shared_ptr<ModelState>& state,
    AdapterRecord& record,
    const Host& host) {
  try {
    commit(made, plan, state, record, host);
  } catch (...) {
    remove_from_layers(*state, record);
    if (state->adapters.empty()) {
      restore_requires_grad(*state);
    }
    throw;
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

// The last adapter takes the place of those of its own method; adapters of
// other methods stay as they are, as in PEFT.
void activate_new(ModelState& state) {
  const AdapterRecord& newest = *state.adapters.back();
  std::vector<AdapterId> of_its_method;
  for (const auto& adapter : state.adapters) {
    if (adapter->config->peft_type() == newest.config->peft_type()) {
      of_its_method.push_back(adapter->id);
    }
  }
  ActiveSet next = *state.activation->load();
  std::erase_if(next.ids, [&](AdapterId id) {
    return std::find(of_its_method.begin(), of_its_method.end(), id) !=
        of_its_method.end();
  });
  next.ids.push_back(newest.id);
  state.sort_by_method(next.ids);
  state.activation->store(std::move(next));
}

}  // namespace

Adapters inject(
    const AdapterConfig& config,
    const Host& host,
    const std::string& name,
    const InjectionOptions& options) {
  const auto state = find_state(host);
  std::unique_ptr<AdapterConfig> adopted;
  if (options.layers_of) {
    adopted = adopt_state_dict(config, host, *options.layers_of);
  }
  InjectionPlan plan =
      plan_injection(adopted ? *adopted : config, host, state.get(), name);
  const StateDict* shapes =
      options.weights ? options.weights : options.layers_of;
  if (shapes) {
    plan = fit_to_weights(std::move(plan), host, state.get(), *shapes);
  }
  if (options.init_data) {
    plan = fit_to_data(std::move(plan), host, state.get(), *options.init_data);
  }
  check_init_data(plan, options);
  return carry_out(std::move(plan), host, state, options);
}

Adapters carry_out(
    InjectionPlan plan,
    const Host& host,
    std::shared_ptr<ModelState> state,
    const InjectionOptions& options) {
  if (!state) {
    state = std::make_shared<ModelState>();
    state->model = host.identity();
    state->model_type = host.type();
  }
  auto record = std::make_unique<AdapterRecord>();
  record->id = state->next_id++;
  record->name = plan.name;
  std::vector<MadeTarget> made;
  for (PlannedTarget& planned : plan.targets) {
    const auto tied_to = planned.target.tied_to;
    made.push_back(
        tied_to ? make_tied(std::move(planned), made[*tied_to])
                : make_target(
                      std::move(planned),
                      !plan.config->inference_mode,
                      record->id,
                      options));
  }
  check_names_free(made, plan.name);
  // The user's handler may throw: before anything has changed, and loading
  // changes biases, which are the model's own.
  warn_of_report(plan.name, plan.report);
  if (options.weights) {
    AdapterRecord preview{.name = plan.name, .config = plan.config->clone()};
    for (const MadeTarget& m : made) {
      preview.targets.push_back(m.planned.target);
    }
    preview.biases = plan.biases;
    load_all(preview, *options.weights, options.partial);
  }
  record->report = std::move(plan.report);
  record->config = std::move(plan.config);
  commit_or_undo(made, plan, state, *record, host);
  make_schedule(*record);
  state->adapters.push_back(std::move(record));
  activate_new(*state);
  return Adapters(state);
}

void remove_from_layers(ModelState& state, const AdapterRecord& record) {
  for (const Target& target : record.targets) {
    target.weight->detach(record.id);
    if (target.bias) {
      target.bias->detach(record.id);
    }
    if (const Seat seat = target.seat(); seat.layer) {
      unregister_adapter(seat, record.name);
    }
  }
  for (const TrainedBias& trained : record.biases) {
    trained.bias.set_requires_grad(false);
    const at::NoGradGuard no_grad;
    at::Tensor bias = trained.bias;
    bias.copy_(trained.original);
  }
  std::erase_if(state.sites, [](const Site& site) {
    if (site.weight->has_attachments()) {
      return false;
    }
    // The user may have put another tensor there meanwhile: leave it.
    const auto* adapted = as_adapted(site.place->get());
    if (adapted && adapted->weight() == site.weight) {
      site.place->put(site.weight->base());
    }
    return true;
  });
}

void restore_requires_grad(ModelState& state) {
  for (const auto& [parameter, before] : state.own_parameters) {
    if (before && !parameter.is_inference()) {
      parameter.set_requires_grad(true);
    }
  }
  state.own_parameters.clear();
}

}  // namespace detail

Adapters inject_adapter_in_model(
    const AdapterConfig& config,
    torch::nn::Module& model,
    const std::string& adapter_name,
    const InjectOptions& options) {
  return detail::inject(
      config,
      detail::ModuleHost(model),
      adapter_name,
      {.layers_of = options.state_dict,
       .empty = options.low_cpu_mem_usage,
       .init_data = options.init_data});
}

MatchReport match_report(
    const AdapterConfig& config,
    const torch::nn::Module& model) {
  return detail::report_matches(config, detail::ModuleHost(model));
}

}  // namespace peft
