// SPDX-License-Identifier: Apache-2.0
#include "model/injection.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>
#include <torch/nn/modules/dropout.h>

#include "base/text.h"
#include "base/warning.h"
#include "hosting/adapted_tensor.h"
#include "hosting/module_host.h"
#include "model/adapter_tensors.h"

namespace peft {
namespace detail {
namespace {

// A target with everything made that it needs, still outside the model.
struct MadeTarget {
  PlannedTarget planned;
  SeatedAdapter seated;
};

MadeTarget make_target(PlannedTarget planned, bool trainable, AdapterId id) {
  // Tensors made in inference mode could never be trained. The guard turns
  // grad mode on, so it comes first.
  const c10::InferenceMode trainable_later(false);
  const at::NoGradGuard no_grad;
  const WeightLayout layout = planned.hosted.layout.value_or(WeightLayout{});
  const at::Tensor& base = planned.hosted.base;
  Target& target = planned.target;
  target.specs = planned.method->parameters(layout);
  Tensors values;
  for (const ParameterSpec& spec : target.specs) {
    values.push_back(at::empty(spec.shape, base.options()));
  }
  planned.method->initialise({base, layout, values, SquaredNorms()});

  MadeTarget made;
  target.attachment = std::make_shared<Attachment>();
  target.attachment->adapter = id;
  target.attachment->method = planned.method;
  target.attachment->is_training = planned.hosted.is_training;
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i].set_requires_grad(
        trainable && !target.specs[i].is_buffer &&
        at::isFloatingType(values[i].scalar_type()));
    made.seated.tensors.push_back(make_seated(target.specs[i], values[i]));
    target.attachment->parameters.push_back(made.seated.tensors.back().tensor);
  }
  const DropoutSpec dropout = planned.method->dropout();
  made.seated.dropout_dict = dropout.dict;
  made.seated.dropout = make_dropout(dropout.p);
  target.attachment->dropout = made.seated.dropout;
  if (planned.bias) {
    target.bias_attachment = std::make_shared<Attachment>(*target.attachment);
    target.bias_attachment->bias_rows = planned.bias->rows;
  }
  made.planned = std::move(planned);
  return made;
}

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

// The plan with ranks as the weights' shapes have them.
InjectionPlan fit_to_weights(
    InjectionPlan plan,
    const Host& host,
    const ModelState* state,
    const StateDict& weights) {
  const MethodEntry& entry = method_entry(*plan.config);
  for (const PlannedTarget& planned : plan.targets) {
    if (!planned.target.is_saved_copy && entry.fit) {
      WeightName name = planned.target.name();
      if (planned.hosted.bare) {
        name.pattern_path =
            join_path(planned.target.layer_path, planned.target.tensor_name);
      }
      entry.fit(
          *plan.config,
          name,
          *planned.hosted.layout,
          stored_shapes(weights, planned.target.file_prefix));
    }
  }
  return plan_injection(*plan.config, host, state, plan.name);
}

void make_schedule(AdapterRecord& record) {
  const auto make = method_entry(*record.config).make_schedule;
  if (!make || record.config->inference_mode) {
    return;
  }
  std::vector<ScheduledWeight> weights;
  for (const Target& target : record.targets) {
    if (!target.is_saved_copy) {
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
  InjectionPlan plan = plan_injection(config, host, state.get(), name);
  if (options.weights) {
    plan = fit_to_weights(std::move(plan), host, state.get(), *options.weights);
  }
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
    made.push_back(make_target(
        std::move(planned), !plan.config->inference_mode, record->id));
  }
  check_names_free(made, plan.name);
  // The user's handler may throw: before anything has changed, and loading
  // changes biases, which are the model's own.
  warn_of_report(plan.name, plan.report);
  if (options.weights) {
    AdapterRecord preview{.name = plan.name};
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
    const std::string& adapter_name) {
  return detail::inject(config, detail::ModuleHost(model), adapter_name);
}

MatchReport match_report(
    const AdapterConfig& config,
    const torch::nn::Module& model) {
  return detail::report_matches(config, detail::ModuleHost(model));
}

}  // namespace peft
