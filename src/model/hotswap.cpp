// SPDX-License-Identifier: Apache-2.0
#include "model/hotswap.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include "base/text.h"
#include "config/copy_fields.h"
#include "hosting/module_host.h"
#include "model/adapter_tensors.h"
#include "model/attach.h"
#include "model/injection.h"
#include "model/make_target.h"
#include "model/residence.h"
#include "peft/hotswap.h"

namespace peft {
namespace detail {
namespace {

bool is_trained(const Target& target) {
  const Tensors& tensors = target.attachment->parameters;
  return std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& t) {
    return t.requires_grad();
  });
}

bool same_shapes(const Target& a, const Target& b) {
  return std::equal(
      a.specs.begin(),
      a.specs.end(),
      b.specs.begin(),
      b.specs.end(),
      [](const ParameterSpec& x, const ParameterSpec& y) {
        return x.dict == y.dict && x.leaf == y.leaf && x.shape == y.shape;
      });
}

// A target as if it were to be injected once more.
PlannedTarget plan_again(
    const Target& target,
    std::shared_ptr<const Method> method) {
  PlannedTarget planned{
      .hosted =
          {.name = target.tensor_name,
           .base = target.base,
           .layout = target.layout,
           .is_training = target.attachment->is_training},
      .target = target,
      .method = std::move(method)};
  if (target.bias) {
    planned.bias = {
        {.base = target.bias->base()}, *target.bias_attachment->bias_rows};
  }
  return planned;
}

class Swap {
 public:
  Swap(AdapterRecord& record, const AdapterConfig& config, const char* asking)
      : record_(record), asking_(asking), config_(config.clone()) {
    copy_fields(*record.config, *config_, target_fields());
    config_->inference_mode = record.config->inference_mode;
  }

  LoadReport plan(const StateDict& weights) {
    // Tensors made in inference mode could never be trained.
    const c10::InferenceMode trainable_later(false);
    for (const Target& target : record_.targets) {
      given_.push_back(stored_shapes(weights, target.file_prefix));
    }
    fit();
    make();
    const std::set<std::string> may_miss(
        without_weights_.begin(), without_weights_.end());
    AdapterRecord preview{.name = record_.name, .config = config_->clone()};
    for (const MadeTarget& made : made_) {
      preview.targets.push_back(made.planned.target);
    }
    preview.biases = record_.biases;
    load_where_given(preview, weights, may_miss, asking_);
    LoadReport report;
    report.missing_keys = std::move(without_weights_);
    return report;
  }

  void commit(ModelState& state) {
    for (std::size_t i = 0; i < made_.size(); ++i) {
      replace(record_.targets[i], made_[i]);
    }
    record_.config = std::move(config_);
    if (record_.source) {
      record_.source->bytes = std::max<std::int64_t>(size_of(record_), 1);
    }
    attach(state, record_, record_.attached->id());
    make_schedule(record_);
  }

 private:
  // Ranks by the shapes of what is given, where the patterns say otherwise.
  void fit() {
    const MethodEntry& entry = method_entry(*config_);
    for (std::size_t i = 0; i < given_.size(); ++i) {
      const Target& target = record_.targets[i];
      if (entry.fit && target.of_method() && !given_[i].empty()) {
        entry.fit(*config_, target.name(), target.layout, given_[i]);
      }
    }
    Mistakes mistakes(
        ErrorKind::config,
        concat("[", asking_, "] cannot swap adapter '", record_.name, "'"));
    config_->check(mistakes);
    mistakes.raise_if_any();
  }

  void make() {
    const MethodEntry& entry = method_entry(*config_);
    const auto neutral = config_->clone();
    entry.start_without_effect(*neutral);
    Mistakes mistakes(
        ErrorKind::config,
        concat("[", asking_, "] cannot swap adapter '", record_.name, "'"));
    std::vector<std::shared_ptr<const Method>> methods;
    for (std::size_t i = 0; i < given_.size(); ++i) {
      const Target& target = record_.targets[i];
      methods.push_back(target.attachment->method);
      if (target.of_method()) {
        methods.back() =
            entry.make(given_[i].empty() ? *neutral : *config_, target.name());
        methods.back()->check(target.layout, target.layer_path, mistakes);
      }
    }
    mistakes.raise_if_any();
    for (std::size_t i = 0; i < methods.size(); ++i) {
      make_one(record_.targets[i], methods[i], !given_[i].empty());
    }
  }

  void make_one(
      const Target& target,
      std::shared_ptr<const Method> method,
      bool given) {
    PlannedTarget planned = plan_again(target, std::move(method));
    if (target.tied_to) {
      made_.push_back(make_tied(std::move(planned), made_[*target.tied_to]));
      return;
    }
    made_.push_back(
        make_target(std::move(planned), is_trained(target), {.empty = given}));
    const Target& now = made_.back().planned.target;
    if (!target.of_method()) {  // goes on as it is where nothing is given
      const at::NoGradGuard no_grad;
      for (std::size_t i = 0; i < now.specs.size(); ++i) {
        at::Tensor to = now.attachment->parameters[i];
        to.copy_(target.attachment->parameters[i]);
      }
    }
    if (!given) {
      for (const ParameterSpec& spec : now.specs) {
        if (!spec.file_name.empty()) {
          without_weights_.push_back(
              join_path(target.file_prefix, spec.file_name));
        }
      }
    }
  }

  void replace(Target& target, MadeTarget& made) {
    Target& next = made.planned.target;
    if (record_.source) {  // read again, and not another one
      next.attachment->scale = target.attachment->scale;
      if (next.bias_attachment) {
        next.bias_attachment->scale = target.attachment->scale;
      }
      next.attachment->dropout = nullptr;
    } else if (is_trained(target) && same_shapes(target, next)) {
      keep_tensors(target, next);
    } else {
      const Seat seat = target.seat();
      unregister_adapter(seat, record_.name);
      register_adapter(seat, record_.name, made.seated, target.weight);
    }
    target = next;
  }

  // An optimiser may hold them.
  static void keep_tensors(const Target& target, Target& next) {
    const at::NoGradGuard no_grad;
    const Tensors& own = target.attachment->parameters;
    for (std::size_t i = 0; i < own.size() && !target.tied_to; ++i) {
      at::Tensor to = own[i];
      to.copy_(next.attachment->parameters[i]);
    }
    next.attachment->parameters = own;
    next.attachment->dropout = target.attachment->dropout;
    if (next.bias_attachment) {
      next.bias_attachment->parameters = own;
    }
  }

  AdapterRecord& record_;
  const char* asking_;
  std::unique_ptr<AdapterConfig> config_;
  std::vector<StoredShapes> given_;  // by target
  std::vector<MadeTarget> made_;
  std::vector<std::string> without_weights_;  // keys
};

}  // namespace

LoadReport hotswap(
    ModelState& state,
    AdapterRecord& record,
    const AdapterConfig& config,
    const StateDict& weights,
    const char* asking) {
  if (config.peft_type() != record.config->peft_type()) {
    throw Error(
        ErrorKind::config,
        concat(
            "[",
            asking,
            "] adapter '",
            record.name,
            "' is of method ",
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
  LoadReport report = swap.plan(weights);
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
            "[",
            asking,
            "] '",
            record.name,
            "' is merged; call unmerge_adapter first"));
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
  swap.plan(weights);
  swap.commit(state);
}

}  // namespace detail

LoadReport hotswap_adapter(
    torch::nn::Module& model,
    const StateDict& weights,
    const AdapterConfig& config,
    const std::string& adapter_name) {
  const auto state = detail::get_state(detail::ModuleHost(model));
  const auto turn = state->lock();
  return detail::hotswap(
      *state,
      state->get(adapter_name, "hotswap_adapter"),
      config,
      weights,
      "hotswap_adapter");
}

}  // namespace peft
