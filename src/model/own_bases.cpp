// SPDX-License-Identifier: Apache-2.0
#include "model/own_bases.h"

#include <algorithm>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include <ATen/ops/equal.h>

#include "base/text.h"
#include "methods/saved_copy.h"
#include "model/adapter_tensors.h"
#include "model/plan_parts.h"

namespace peft::detail {
namespace {

using Form = WeightLayout::Form;

bool is_table(const HostedTensor& tensor) {
  return tensor.layout && tensor.layout->form == Form::table;
}

bool is_matrix(const HostedTensor& tensor) {
  return tensor.layout && tensor.layout->form == Form::matrix &&
      !tensor.layout->inputs_first;
}

class Planner {
 public:
  Planner(
      InjectionPlan& plan,
      const std::vector<HostedLayer>& layers,
      const GivenTensors& given,
      Mistakes& mistakes)
      : plan_(plan), layers_(layers), given_(given), mistakes_(mistakes) {
    if (given.weights) {
      for (const auto& item : *given.weights) {
        values_.emplace(without_prefix(item.key()), item.value());
      }
    }
    for (std::size_t i = 0; i < plan.targets.size(); ++i) {
      note_target(i);
    }
  }

  // Heads and biases go by the tables beside them.
  void run() {
    note_tables();
    each_tensor([&](auto& layer, auto& tensor) {
      if (is_table(tensor)) {
        look_for(layer, tensor);
      }
    });
    each_tensor([&](auto& layer, auto& tensor) {
      if (!is_table(tensor) && tensor.layout) {
        look_for(layer, tensor);
      }
    });
    each_tensor([&](auto& layer, auto& tensor) {
      if (!tensor.layout) {
        look_for(layer, tensor);
      }
    });
    tie();
  }

 private:
  template <class See>
  void each_tensor(const See& see) {
    for (const HostedLayer& layer : layers_) {
      for (const HostedTensor& tensor : layer.tensors) {
        see(layer, tensor);
      }
    }
  }

  void note_target(std::size_t i) {
    const PlannedTarget& planned = plan_.targets[i];
    const Target& target = planned.target;
    const std::string place = join_path(target.layer_path, target.tensor_name);
    if (target.of_method()) {
      prefixes_.emplace(target.layer_path, target.file_prefix);
    }
    if (target.is_copy()) {
      copies_.insert(place);
      if (!target.tied_to) {
        claimed_.emplace(join_path(target.file_prefix, file_name(planned)), i);
      }
    } else {
      adapted_.emplace(place, i);
    }
  }

  void note_tables() {
    each_tensor([&](const HostedLayer&, const HostedTensor& tensor) {
      if (is_table(tensor)) {
        tables_.insert(tensor.base.unsafeGetTensorImpl());
        table_rows_.insert(tensor.base.size(0));
      }
    });
  }

  bool is_tied_to_table(const HostedTensor& tensor) const {
    return tables_.contains(tensor.base.unsafeGetTensorImpl());
  }
  bool is_like_head(const HostedTensor& tensor) const {
    return is_matrix(tensor) && table_rows_.contains(tensor.base.size(0));
  }

  void look_for(const HostedLayer& layer, const HostedTensor& tensor) {
    const auto prefix = prefixes_.find(layer.path);
    if (prefix != prefixes_.end()) {
      look_at(layer, tensor, prefix->second, "base_layer." + tensor.name);
    }
    look_at(layer, tensor, layer.path, tensor.name);
  }

  static std::string file_name(const PlannedTarget& copy) {
    return copy.method->parameters(WeightLayout()).front().file_name;
  }

  // A copy that the config asks for is there already; modules_to_save may be of
  // an enlarged vocabulary.
  void fit_copy(std::size_t index, const at::Tensor& value) {
    PlannedTarget& copy = plan_.targets[index];
    if (copy.target.role != Role::saved_copy ||
        value.sizes() == copy.hosted.base.sizes() ||
        !may_have_rows(copy.target.layer_path, copy.hosted, value)) {
      return;
    }
    note_rows(copy.target.layer_path, copy.hosted, value.size(0));
    copy.method = make_saved_copy(copy.hosted.name, value, /*is_buffer=*/false);
    for (PlannedTarget& other : plan_.targets) {
      if (other.target.tied_to == index) {
        other.method = copy.method;
      }
    }
  }

  // Other rows than the base: of vocabularies alone.
  bool may_have_rows(
      const std::string& path,
      const HostedTensor& tensor,
      const at::Tensor& value) const {
    const at::Tensor& base = tensor.base;
    if (value.dim() != base.dim() || base.dim() == 0 || value.size(0) == 0 ||
        value.sizes().slice(1) != base.sizes().slice(1)) {
      return false;
    }
    if (tensor.name == "bias") {
      const auto rows = own_rows_.find(path);
      return rows != own_rows_.end() && rows->second == value.size(0);
    }
    return is_table(tensor) || is_tied_to_table(tensor) ||
        (is_like_head(tensor) && given_rows_.contains(value.size(0)));
  }

  void note_rows(
      const std::string& path,
      const HostedTensor& tensor,
      std::int64_t rows) {
    if (tensor.name != "bias") {
      own_rows_[path] = rows;
    }
    if (is_table(tensor)) {
      given_rows_.insert(rows);
    }
  }

  void look_at(
      const HostedLayer& layer,
      const HostedTensor& tensor,
      const std::string& prefix,
      const std::string& name) {
    const std::string key = join_path(prefix, name);
    const bool is_whole = prefix == layer.path && name == tensor.name;
    const bool is_expected =
        is_table(tensor) || is_like_head(tensor) || is_tied_to_table(tensor);
    if (is_expected && !plan_.base_keys.contains(key)) {
      plan_.base_keys.insert(key, tensor.base);
    }
    const auto found = values_.find(key);
    if (found == values_.end()) {
      return;
    }
    const at::Tensor& value = found->second;
    if (const auto claim = claimed_.find(key); claim != claimed_.end()) {
      fit_copy(claim->second, value);
      return;
    }
    if (copies_.contains(join_path(layer.path, tensor.name))) {
      return;
    }
    if (is_table(tensor) && value.dim() == 2) {
      given_rows_.insert(value.size(0));
    }
    if (has_values_of(tensor.base, value)) {
      return;
    }
    if (may_be_own(layer, tensor, value)) {
      note_rows(layer.path, tensor, value.size(0));
      add(layer, tensor, prefix, name, value);
    } else if (!is_whole) {
      refuse(layer, tensor, key, value);
    }
  }

  bool may_be_own(
      const HostedLayer& layer,
      const HostedTensor& tensor,
      const at::Tensor& value) const {
    return may_have_rows(layer.path, tensor, value) ||
        (given_.own_base_weights && value.sizes() == tensor.base.sizes());
  }

  void refuse(
      const HostedLayer& layer,
      const HostedTensor& tensor,
      const std::string& key,
      const at::Tensor& value) {
    mistakes_.add(
        ErrorKind::shape,
        value.sizes() != tensor.base.sizes()
            ? concat(
                  key,
                  ": given ",
                  value.sizes(),
                  ", the layer has ",
                  tensor.base.sizes())
            : concat(
                  key,
                  ": the file holds other values than '",
                  join_path(layer.path, tensor.name),
                  "' has, which adapters never overwrite; was it made for "
                  "another base? LoadOptions::own_base_weights = true takes "
                  "them as this adapter's own copy"));
  }

  void add(
      const HostedLayer& layer,
      const HostedTensor& tensor,
      const std::string& prefix,
      const std::string& name,
      const at::Tensor& value) {
    plan_.targets.push_back(
        {tensor,
         Target{
             .layer_path = layer.path,
             .layer_type = layer.type,
             .tensor_name = tensor.name,
             .file_prefix = prefix,
             .pattern_path = layer.path,
             .role = Role::own_base,
             .layer = layer.seat,
             .base = tensor.base},
         make_own_base(tensor.name, name, value)});
    note_target(plan_.targets.size() - 1);
    stand_on(layer, tensor, value);
  }

  // What the method has on this weight reads the copy.
  void stand_on(
      const HostedLayer& layer,
      const HostedTensor& tensor,
      const at::Tensor& value) {
    const auto [first, last] =
        adapted_.equal_range(join_path(layer.path, tensor.name));
    for (auto at = first; at != last; ++at) {
      PlannedTarget& planned = plan_.targets[at->second];
      if (planned.target.role != Role::adapter) {
        continue;
      }
      planned.target.own_base = value;
      if (value.size(0) != tensor.base.size(0)) {
        planned.own_layout = with_rows(*planned.hosted.layout, value.size(0));
      }
      if (planned.target.of_method() && takes_weight_apart(planned)) {
        mistakes_.add(
            ErrorKind::unsupported,
            concat(
                "'",
                layer.path,
                "': the adapter started from a part of the weight, and the "
                "file holds what was left of it (base_layer); save it in "
                "Python with path_initial_model_for_weight_conversion, which "
                "makes it plain LoRA"));
      }
    }
  }

  // It keeps what no file holds.
  static bool takes_weight_apart(const PlannedTarget& planned) {
    const auto specs = planned.method->parameters(*planned.hosted.layout);
    return std::any_of(specs.begin(), specs.end(), [](const auto& spec) {
      return spec.file_name.empty();
    });
  }

  // Layers that share the base's tensor share the copy, as in PEFT, where they
  // have none of their own.
  void tie() {
    const std::size_t count = plan_.targets.size();
    for (std::size_t i = 0; i < count; ++i) {
      if (plan_.targets[i].target.role != Role::own_base ||
          plan_.targets[i].target.tied_to) {
        continue;
      }
      each_tensor([&](const HostedLayer& layer, const HostedTensor& tensor) {
        const PlannedTarget& owner = plan_.targets[i];
        if (!tensor.base.is_same(owner.target.base) ||
            copies_.contains(join_path(layer.path, tensor.name))) {
          return;
        }
        const at::Tensor& value =
            values_.at(join_path(owner.target.file_prefix, file_name(owner)));
        plan_.targets.push_back(tied_at(owner, i, layer, tensor));
        note_target(plan_.targets.size() - 1);
        stand_on(layer, tensor, value);
      });
    }
  }

  InjectionPlan& plan_;
  const std::vector<HostedLayer>& layers_;
  const GivenTensors& given_;
  Mistakes& mistakes_;
  std::unordered_map<std::string, at::Tensor> values_;     // given, by key
  std::unordered_map<std::string, std::string> prefixes_;  // by layer
  // The plan's targets: copies by their keys, others by tensor path.
  std::unordered_map<std::string, std::size_t> claimed_;
  std::unordered_multimap<std::string, std::size_t> adapted_;
  std::unordered_set<std::string> copies_;  // tensor paths that have one
  std::set<const void*> tables_;
  std::set<std::int64_t> table_rows_;  // of the model's
  std::set<std::int64_t> given_rows_;  // of tables that are given
  std::unordered_map<std::string, std::int64_t> own_rows_;  // by layer
};

}  // namespace

WeightLayout with_rows(WeightLayout layout, std::int64_t rows) {
  (layout.form == Form::table ? layout.inputs : layout.outputs) = rows;
  return layout;
}

bool has_values_of(const at::Tensor& base, const at::Tensor& value) {
  if (base.sizes() != value.sizes() || value.layout() != at::kStrided ||
      value.is_meta()) {
    return false;
  }
  if (base.is_meta()) {
    return true;
  }
  const at::Tensor own = base.detach();
  const at::Tensor given = value.detach().to(own.device());
  return at::equal(own.to(given.scalar_type()), given) ||
      at::equal(given.to(own.scalar_type()), own);
}

void plan_own_bases(
    InjectionPlan& plan,
    const std::vector<HostedLayer>& layers,
    const GivenTensors& given,
    Mistakes& mistakes) {
  Planner(plan, layers, given, mistakes).run();
}

void link_own_bases(std::vector<Target>& targets) {
  std::unordered_map<std::string, at::Tensor> own;
  const auto place = [](const Target& target) {
    return join_path(target.layer_path, target.tensor_name);
  };
  for (const Target& target : targets) {
    if (target.role == Role::own_base) {
      own.emplace(place(target), target.attachment->parameters[0]);
    }
  }
  for (Target& target : targets) {
    if (target.role == Role::adapter) {
      const auto found = own.empty() ? own.end() : own.find(place(target));
      target.own_base = found == own.end() ? at::Tensor() : found->second;
    }
  }
}

}  // namespace peft::detail
