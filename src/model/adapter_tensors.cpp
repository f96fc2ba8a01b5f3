// SPDX-License-Identifier: Apache-2.0
#include "model/adapter_tensors.h"

#include <ATen/core/grad_mode.h>
#include <torch/nn/module.h>

#include "base/text.h"
#include "base/warning.h"
#include "hosting/module_host.h"

namespace peft {
namespace detail {
namespace {

// What Python PEFT's saved files put in front of every key.
constexpr std::string_view file_prefix = "base_model.model.";

std::string without_prefix(const std::string& key) {
  return key.starts_with(file_prefix) ? key.substr(file_prefix.size()) : key;
}

// Keys that PEFT writes beside an adapter and that may be absent: whole base
// tables of targeted embeddings, and second names of saved modules' biases.
struct SurplusKeys {
  StateDict base_weights;                 // copied into the base
  std::vector<std::string> second_names;  // say nothing new
};

SurplusKeys surplus_keys(const AdapterRecord& record) {
  SurplusKeys surplus;
  for (const Target& target : record.targets) {
    if (target.is_saved_copy) {
      for (const char* wrapper : {"original_module", "modules_to_save"}) {
        surplus.second_names.push_back(
            concat(target.file_prefix, ".", wrapper, ".", target.tensor_name));
      }
    } else if (!surplus.base_weights.contains(
                   target.file_prefix + ".base_layer.weight")) {
      surplus.base_weights.insert(
          target.file_prefix + ".base_layer.weight", target.base);
    }
  }
  return surplus;
}

std::string shape_text(const at::Tensor& tensor) {
  return concat(tensor.sizes());
}

struct Copy {
  at::Tensor to;
  at::Tensor from;
};

class Loading {
 public:
  explicit Loading(const AdapterRecord& record)
      : name_(record.name),
        own_(adapter_tensors(record)),
        surplus_(surplus_keys(record)) {}

  LoadReport run(const StateDict& weights, bool ignore_mismatched_sizes) {
    for (const auto& item : weights) {
      take(item.key(), item.value());
    }
    for (const auto& item : own_) {
      if (!seen_.contains(item.key())) {
        report_.missing_keys.push_back(item.key());
      }
    }
    if (!ignore_mismatched_sizes) {
      raise_mismatches();
    }
    const at::NoGradGuard no_grad;
    for (const Copy& copy : copies_) {
      at::Tensor to = copy.to;
      to.copy_(copy.from);
    }
    return std::move(report_);
  }

 private:
  void take(const std::string& file_key, const at::Tensor& value) {
    const std::string key = without_prefix(file_key);
    const at::Tensor* own = own_.find(key);
    if (!own) {
      own = surplus_.base_weights.find(key);
    }
    if (own) {
      plan_copy(file_key, *own, value);
      seen_.insert(key, true);
      return;
    }
    const auto& known = surplus_.second_names;
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      report_.unexpected_keys.push_back(file_key);
    }
  }

  void plan_copy(
      const std::string& key,
      const at::Tensor& own,
      const at::Tensor& value) {
    if (seen_.contains(without_prefix(key))) {
      report_.mismatched.push_back(
          concat(key, ": given twice, with and without ", file_prefix));
    } else if (own.sizes() != value.sizes()) {
      report_.mismatched.push_back(concat(
          key,
          ": given ",
          shape_text(value),
          ", the adapter has ",
          shape_text(own)));
    } else if (own.is_floating_point() && !value.is_floating_point()) {
      report_.mismatched.push_back(concat(
          key, ": given ", value.dtype(), ", the adapter has ", own.dtype()));
    } else {
      copies_.push_back({own, value});
    }
  }

  void raise_mismatches() const {
    Mistakes mistakes(
        ErrorKind::shape,
        concat(
            "cannot load the state dict into adapter '",
            name_,
            "' (was it "
            "trained with another rank or model?)"));
    for (const auto& text : report_.mismatched) {
      mistakes.add(text);
    }
    mistakes.raise_if_any();
  }

  std::string name_;
  StateDict own_;
  SurplusKeys surplus_;
  LoadReport report_;
  std::vector<Copy> copies_;
  torch::OrderedDict<std::string, bool> seen_;
};

}  // namespace

StateDict adapter_tensors(const AdapterRecord& record) {
  StateDict tensors;
  for (const Target& target : record.targets) {
    for (std::size_t i = 0; i < target.specs.size(); ++i) {
      tensors.insert(
          join_path(target.file_prefix, target.specs[i].file_name),
          target.attachment->parameters[i]);
    }
  }
  for (const TrainedBias& trained : record.biases) {
    tensors.insert(trained.file_key, trained.bias);
  }
  return tensors;
}

StoredShapes stored_shapes(
    const StateDict& weights,
    const std::string& prefix) {
  StoredShapes shapes;
  for (const auto& item : weights) {
    const std::string key = without_prefix(item.key());
    if (key.starts_with(prefix + ".")) {
      shapes.emplace_back(
          key.substr(prefix.size() + 1), item.value().sizes().vec());
    }
  }
  return shapes;
}

LoadReport load_tensors(
    const AdapterRecord& record,
    const StateDict& weights,
    bool ignore_mismatched_sizes) {
  return Loading(record).run(weights, ignore_mismatched_sizes);
}

void load_all(
    const AdapterRecord& record,
    const StateDict& weights,
    bool partial) {
  const LoadReport report = load_tensors(record, weights, false);
  Mistakes mistakes(
      ErrorKind::shape,
      concat("the weights do not fit adapter '", record.name, "'"));
  if (!report.missing_keys.empty()) {
    mistakes.add(concat(
        report.missing_keys.size(),
        " of ",
        report.missing_keys.size() + weights.size() -
            report.unexpected_keys.size(),
        " tensors of the adapter are missing: ",
        list_names(report.missing_keys)));
  }
  if (!report.unexpected_keys.empty()) {
    mistakes.add(concat(
        report.unexpected_keys.size(),
        " of ",
        weights.size(),
        " tensors given fit nowhere in this model: ",
        list_names(report.unexpected_keys)));
  }
  if (partial && mistakes.any()) {
    try {
      mistakes.raise_if_any();
    } catch (const Error& error) {
      warn(error.what());
    }
    return;
  }
  mistakes.raise_if_any();
}

}  // namespace detail

StateDict get_peft_model_state_dict(
    torch::nn::Module& model,
    const std::string& adapter_name) {
  const auto state = detail::get_state(detail::ModuleHost(model));
  return detail::adapter_tensors(
      state->get(adapter_name, "get_peft_model_state_dict"));
}

LoadReport set_peft_model_state_dict(
    torch::nn::Module& model,
    const StateDict& state_dict,
    const std::string& adapter_name,
    bool ignore_mismatched_sizes) {
  const auto state = detail::get_state(detail::ModuleHost(model));
  return detail::load_tensors(
      state->get(adapter_name, "set_peft_model_state_dict"),
      state_dict,
      ignore_mismatched_sizes);
}

}  // namespace peft
