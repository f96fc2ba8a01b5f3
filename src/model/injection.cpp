// SPDX-License-Identifier: Apache-2.0
#include "model/injection.h"

#include <algorithm>
#include <unordered_map>

#include "base/text.h"
#include "base/warning.h"
#include "hosting/adapted_tensor.h"
#include "hosting/module_host.h"
#include "hosting/program_layers.h"
#include "model/adapter_tensors.h"
#include "model/adopt_state_dict.h"
#include "model/attach.h"
#include "model/choose.h"
#include "model/expert_order.h"
#include "model/fit_to_weights.h"
#include "model/init_data.h"
#include "model/make_target.h"
#include "model/told_apart.h"
#include "model/wrapper_names.h"

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

// What an attached adapter has while its values are elsewhere. Its dropout has
// no place in the tree that could switch it off, and never acts.
WeightSource source_of(
    std::function<StateDict()> read,
    const AdapterRecord& record) {
  WeightSource source{.read = std::move(read)};
  for (const Target& target : record.targets) {
    source.empty.push_back(target.attachment);
    source.empty_biases.push_back(target.bias_attachment);
    target.attachment->dropout = nullptr;
    if (target.bias_attachment) {
      target.bias_attachment->dropout = nullptr;
    }
  }
  return source;
}

std::shared_ptr<AdaptedWeight> weight_at(
    const HostedTensor& hosted,
    const std::string& layer,
    ModelState& state) {
  if (const auto* adapted = as_adapted(hosted.place->get())) {
    return adapted->weight();
  }
  auto weight = std::make_shared<AdaptedWeight>(
      state.next_weight++,
      hosted.base,
      hosted.layout.value_or(WeightLayout{}),
      state.activation,
      layer);
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
  target.weight = weight_at(made.planned.hosted, target.layer_path, *state);
  if (bias) {
    HostedTensor hosted = bias->hosted;
    const auto& of_weight = made.planned.hosted.layout;
    hosted.layout = WeightLayout{
        .positions_first = of_weight && of_weight->positions_first};
    target.bias = weight_at(hosted, target.layer_path, *state);
  }
  record.targets.push_back(target);
  if (!record.source) {
    register_adapter(
        target.seat(), record.name, made.seated, target.weight, state);
  }
  put_adapted(made.planned.hosted, target.weight, state);
  if (bias) {
    if (!record.source) {
      follow_dtype(target.seat(), made.seated, target.bias);
    }
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
    const std::shared_ptr<ModelState>& state,
    AdapterRecord& record,
    const Host& host) {
  if (state->adapters.empty()) {
    host.prepare();
    state->tree = host.tree();
    host.pin_runs(state->activation);
  }
  for (MadeTarget& m : made) {
    put_in_model(m, state, record);
    const auto owner = m.planned.target.tied_to;
    if (owner && !record.source) {
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
}

// Names the sites from the `first` on, and who else reads their tensors.
void name_sites(ModelState& state, std::size_t first, const Host& host) {
  if (first == state.sites.size()) {
    return;
  }
  std::unordered_map<const void*, std::vector<std::string>> readers;
  for (const HostedLayer& layer : host.layers()) {
    for (const HostedTensor& tensor : layer.tensors) {
      readers[tensor.base.unsafeGetTensorImpl()].push_back(layer.path);
      if (const auto* adapted = as_adapted(tensor.place->get())) {
        for (std::size_t i = first; i < state.sites.size(); ++i) {
          if (state.sites[i].weight == adapted->weight()) {
            state.sites[i].path = layer.path;
            state.sites[i].name = join_path(layer.path, tensor.name);
          }
        }
      }
    }
  }
  for (std::size_t i = first; i < state.sites.size(); ++i) {
    Site& site = state.sites[i];
    site.shared_with = readers[site.weight->base().unsafeGetTensorImpl()];
    std::erase(site.shared_with, site.path);
  }
}

// The checks are over; what can still fail is memory.
void commit_or_undo(
    std::vector<MadeTarget>& made,
    const std::shared_ptr<ModelState>& state,
    AdapterRecord& record,
    const Host& host) {
  const std::size_t sites = state->sites.size();
  try {
    commit(made, state, record, host);
    name_sites(*state, sites, host);
  } catch (...) {
    remove_from_layers(record);
    put_bases_back(*state, sites);
    if (state->adapters.empty()) {
      restore_requires_grad(*state);
    }
    throw;
  }
}

// The last adapter takes the place of those of its own method; adapters of
// other methods stay as they are, as in PEFT.
void activate_new(ModelState& state) {
  const auto& newest = state.adapters.back()->attached;
  AttachedAdapters next = state.activation->load()->adapters;
  const auto place = std::find_if(next.begin(), next.end(), [&](auto& other) {
    return other->order() >= newest->order();
  });
  next.insert(place, newest);
  std::erase_if(next, [&](const auto& other) {
    return other != newest && other->order() == newest->order();
  });
  choose(state, std::move(next), "inject_adapter_in_model");
}

}  // namespace

Adapters inject(
    const AdapterConfig& config,
    const ModuleHost& joined,
    const std::string& name,
    const InjectionOptions& options) {
  const auto state = find_state(joined);
  const auto turn = take_turn(state.get());
  const StateDict* shapes =
      options.weights ? options.weights : options.layers_of;
  const auto apart =
      shapes ? told_apart(joined, *shapes, name) : std::set<std::string>();
  const ModuleHost host(joined.root(), apart);
  std::unique_ptr<AdapterConfig> adopted;
  StateDict layers_of;
  if (options.layers_of) {
    layers_of = without_wrapper_names(
        *options.layers_of, [&] { return module_paths(host.layers()); });
    adopted = adopt_state_dict(config, host, layers_of);
  }
  const GivenTensors given{
      .any = shapes != nullptr,
      .weights = options.weights,
      .own_base_weights = options.own_base_weights};
  InjectionPlan plan = plan_injection(
      adopted ? *adopted : config, host, state.get(), name, {.any = given.any});
  if (shapes) {
    plan = fit_to_weights(
        std::move(plan),
        host,
        state.get(),
        options.weights ? *options.weights : layers_of,
        given,
        apart);
  }
  if (shapes && !options.partial) {
    check_replicated(plan, options.weights ? *options.weights : layers_of);
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
  record->name = plan.name;
  record->autocast_dtype = options.autocast_adapter_dtype;
  record->trains = !plan.config->inference_mode;
  std::vector<MadeTarget> made;
  for (PlannedTarget& planned : plan.targets) {
    if (const auto layer = planned.target.layer.lock()) {
      fill_computed(*layer, planned.hosted.base);
    }
    const auto tied_to = planned.target.tied_to;
    made.push_back(
        tied_to
            ? make_tied(std::move(planned), made[*tied_to])
            : make_target(
                  std::move(planned), !plan.config->inference_mode, options));
  }
  check_names_free(made, plan.name);
  // The user's handler may throw: before anything has changed.
  warn_of_report(plan.name, plan.report);
  if (options.weights) {
    AdapterRecord preview{.name = plan.name, .config = plan.config->clone()};
    for (const MadeTarget& m : made) {
      preview.targets.push_back(m.planned.target);
    }
    preview.base_keys = plan.base_keys;
    const StateDict weights =
        in_todays_order(preview.targets, *plan.config, *options.weights);
    if (options.source) {
      check_given(preview, weights, "attach_adapter");
      record->source = source_of(options.source, preview);
    } else {
      load_all(preview, weights, options.partial);
    }
  }
  record->report = std::move(plan.report);
  record->base_keys = std::move(plan.base_keys);
  record->own_base_weights = options.own_base_weights;
  record->config = std::move(plan.config);
  commit_or_undo(made, state, *record, host);
  attach(*state, *record, state->next_id++);
  make_schedule(*record);
  state->adapters.push_back(std::move(record));
  if (options.activate) {
    activate_new(*state);
  }
  return Adapters(state);
}

void add_targets(
    std::vector<MadeTarget>& made,
    const std::shared_ptr<ModelState>& state,
    AdapterRecord& record,
    const Host& host) {
  const std::size_t sites = state->sites.size();
  const std::size_t targets = record.targets.size();
  try {
    for (MadeTarget& m : made) {
      put_in_model(m, state, record);
    }
    name_sites(*state, sites, host);
  } catch (...) {
    for (std::size_t i = targets; i < record.targets.size(); ++i) {
      const Target& target = record.targets[i];
      unregister_target(target.seat(), record.name, "", target.specs);
    }
    record.targets.resize(targets);
    put_bases_back(*state, sites);
    throw;
  }
}

void remove_from_layers(const AdapterRecord& record) {
  for (const Target& target : record.targets) {
    if (const Seat seat = target.seat(); seat.layer) {
      unregister_adapter(seat, record.name);
    }
  }
}

void put_bases_back(ModelState& state, std::size_t kept) {
  for (std::size_t i = kept; i < state.sites.size(); ++i) {
    const Site& site = state.sites[i];
    // The user may have put another tensor there meanwhile: leave it.
    const auto* adapted = as_adapted(site.place->get());
    if (adapted && adapted->weight() == site.weight) {
      site.place->put(site.weight->base());
    }
  }
  state.sites.erase(
      state.sites.begin() + static_cast<std::ptrdiff_t>(kept),
      state.sites.end());
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
       .init_data = options.init_data,
       .activate = options.activate,
       .autocast_adapter_dtype = options.autocast_adapter_dtype});
}

MatchReport match_report(
    const AdapterConfig& config,
    const torch::nn::Module& model) {
  return detail::report_matches(config, detail::ModuleHost(model));
}

}  // namespace peft
