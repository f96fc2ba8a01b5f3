// SPDX-License-Identifier: Apache-2.0
#include "peft/base_weights.h"

#include <unordered_map>
#include <unordered_set>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>

#include "base/mistakes.h"
#include "base/text.h"
#include "hosting/module_host.h"
#include "hosting/own_tensors.h"
#include "methods/holds_values.h"
#include "model/merge.h"
#include "model/wrapper_names.h"

namespace peft {
namespace {

using namespace detail;

// Every name of every tensor of the model itself.
class NamedTensorsOf {
 public:
  explicit NamedTensorsOf(const torch::nn::Module& model) { add(model, ""); }
  const StateDict& all() const { return all_; }

 private:
  void add(const torch::nn::Module& module, const std::string& path) {
    if (!on_path_.insert(&module).second) {
      return;  // a module that contains itself
    }
    for (const OwnTensor& own : own_tensors_of(module)) {
      const std::string name = join_path(path, own.name);
      if (!all_.contains(name)) {
        all_.insert(name, own.read);
      }
    }
    for (const auto& child : module.named_children()) {
      if (!is_adapter_module(*child.value())) {
        add(*child.value(), join_path(path, child.key()));
      }
    }
    on_path_.erase(&module);
  }

  StateDict all_;
  std::unordered_set<const torch::nn::Module*> on_path_;
};

const void* identity(const at::Tensor& tensor) {
  return tensor.unsafeGetTensorImpl();
}

// The entries for a state dict's own tensors, by tensor: layers that share one
// may each have an entry, and one of them is enough.
class Given {
 public:
  Given(const StateDict& own, const StateDict& given) {
    for (const auto& item : given) {
      if (const at::Tensor* found = own.find(item.key())) {
        of_tensor_[identity(*found)].push_back(
            {item.key(), item.value(), *found});
      }
    }
  }

  bool has(const at::Tensor& own) const {
    return of_tensor_.contains(identity(own));
  }

  void check_agreement(Mistakes& mistakes) const {
    for (const auto& [tensor, entries] : of_tensor_) {
      for (std::size_t i = 1; i < entries.size(); ++i) {
        if (!agree(entries.front(), entries[i])) {
          mistakes.add(concat(
              "'",
              entries.front().name,
              "' and '",
              entries[i].name,
              "' are one tensor in the model, and two are given; leave out the "
              "one that is not meant"));
        }
      }
    }
  }

 private:
  struct Entry {
    std::string name;
    at::Tensor value;
    at::Tensor own;
  };

  // Other shapes are mistakes already.
  static bool agree(const Entry& a, const Entry& b) {
    return a.value.is_same(b.value) || a.value.sizes() != b.value.sizes() ||
        at::equal(a.value.to(a.own.options()), b.value.to(a.own.options()));
  }

  std::unordered_map<const void*, std::vector<Entry>> of_tensor_;
};

}  // namespace

StateDict get_base_model_state_dict(
    const torch::nn::Module& model,
    BaseValues values) {
  StateDict own = NamedTensorsOf(model).all();
  const auto state = find_state(ModuleHost(model));
  if (values == BaseValues::own || !state) {
    return own;
  }
  const auto turn = state->lock();
  // A tied tensor may be merged in one of its layers only: by name.
  for (const auto& [name, tensor] :
       merged_tensors(*state, "get_base_model_state_dict")) {
    if (at::Tensor* found = own.find(name)) {
      *found = tensor;
    }
  }
  return own;
}

LoadReport set_base_model_state_dict(
    torch::nn::Module& model,
    const StateDict& state_dict,
    bool strict) {
  const StateDict own = NamedTensorsOf(model).all();
  const ModuleHost host(model);
  const StateDict given = without_wrapper_names(
      state_dict, [&] { return module_paths(host.layers()); });
  const auto state = find_state(host);
  const auto turn = take_turn(state.get());
  LoadReport report;
  Mistakes mistakes(
      ErrorKind::shape,
      "[set_base_model_state_dict] the weights do not fit the model");
  for (const auto& item : given) {
    const at::Tensor* found = own.find(item.key());
    if (!found) {
      report.unexpected_keys.push_back(item.key());
    } else if (found->sizes() != item.value().sizes()) {
      mistakes.add(concat(
          "'",
          item.key(),
          "': given ",
          item.value().sizes(),
          ", the model has ",
          found->sizes()));
    } else if (!holds_values(found->scalar_type(), item.value())) {
      mistakes.add(concat(
          "'",
          item.key(),
          "': ",
          cannot_hold(found->scalar_type(), item.value())));
    }
  }
  const Given entries(own, given);
  for (const auto& item : own) {
    if (!entries.has(item.value())) {
      report.missing_keys.push_back(item.key());
    }
  }
  entries.check_agreement(mistakes);
  const auto add = [&](const char* what, const std::vector<std::string>& keys) {
    if (strict && !keys.empty()) {
      mistakes.add(concat(
          keys.size(),
          what,
          list_names(keys),
          " (strict = false leaves them out)"));
    }
  };
  add(" tensors of the model are missing: ", report.missing_keys);
  add(" tensors given are not the model's: ", report.unexpected_keys);
  if (strict) {
    explain_wrappers(report.unexpected_keys, mistakes);
  }
  mistakes.raise_if_any();
  const at::NoGradGuard no_grad;
  for (const auto& item : given) {
    if (const at::Tensor* found = own.find(item.key())) {
      at::Tensor to = *found;
      to.copy_(item.value());
    }
  }
  return report;
}

}  // namespace peft
