// SPDX-License-Identifier: Apache-2.0
// A state dict's values into an adapter's tensors.
#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include <ATen/core/grad_mode.h>

#include "base/text.h"
#include "base/warning.h"
#include "hosting/replace_data.h"
#include "methods/holds_values.h"
#include "model/adapter_tensors.h"
#include "model/file_keys.h"
#include "model/make_target.h"
#include "model/own_bases.h"

namespace peft::detail {
namespace {

// The names that files use, by the second names that they may use instead.
std::map<std::string, std::string> second_names(const AdapterRecord& record) {
  std::map<std::string, std::string> names;
  for (const Target& target : record.targets) {
    for (const ParameterSpec& spec : target.specs) {
      if (!spec.other_name.empty()) {
        names.emplace(
            join_path(target.file_prefix, spec.other_name),
            join_path(target.file_prefix, spec.file_name));
      }
    }
  }
  return names;
}

// PEFT also writes the biases of saved modules under the names of its wrappers
// (head.original_module.0.bias, head.modules_to_save.default.0.bias): nothing
// new is said there when the plain name is one of `own`.
bool is_second_name(const std::string& key, const StateDict& own) {
  const auto rest_after = [&](std::size_t from) {
    const auto dot = key.find('.', from);
    return dot == std::string::npos ? "" : key.substr(dot + 1);
  };
  for (const std::string wrapper : {".original_module.", ".modules_to_save."}) {
    for (auto at = key.find(wrapper); at != std::string::npos;
         at = key.find(wrapper, at + 1)) {
      const std::string front = key.substr(0, at + 1);
      const std::size_t after = at + wrapper.size();
      if (own.contains(front + key.substr(after)) ||
          own.contains(front + rest_after(after))) {
        return true;
      }
    }
  }
  return false;
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
  Loading(const AdapterRecord& record, const StateDict& weights)
      : record_(record),
        own_(adapter_tensors(record)),
        second_(second_tensors(record)),
        second_names_(second_names(record)) {
    for (const auto& item : weights) {
      take(item.key(), item.value());
    }
    for (const auto& item : own_) {
      if (!seen_.contains(item.key())) {
        report_.missing_keys.push_back(item.key());
      }
    }
  }

  const LoadReport& report() const { return report_; }
  std::size_t size() const { return own_.size(); }

  void copy() const {
    const at::NoGradGuard no_grad;
    for (const Copy& copy : copies_) {
      at::Tensor to = copy.to;
      if (!to.is_meta()) {
        to.copy_(copy.from);
      }
    }
    fill_empty();
  }

 private:
  // A copy of each: what is given may be a map of a file that others write to.
  void fill_empty() const {
    std::unordered_map<const void*, at::Tensor> given;
    for (const Copy& copy : copies_) {
      if (copy.to.is_meta()) {
        given.emplace(copy.to.unsafeGetTensorImpl(), copy.from);
      }
    }
    if (given.empty()) {
      return;
    }
    for (const Target& target : record_.targets) {
      if (target.tied_to) {
        continue;
      }
      for (const at::Tensor& empty : target.attachment->parameters) {
        const auto found = given.find(empty.unsafeGetTensorImpl());
        if (found != given.end()) {
          replace_data(
              empty,
              found->second.to(
                  target.base.device(),
                  empty.scalar_type(),
                  /*non_blocking=*/false,
                  /*copy=*/true));
        }
      }
      fill_rest(target);
    }
  }

  bool is_alpha(const std::string& key) const {
    return key.ends_with(".alpha") &&
        std::any_of(
               record_.targets.begin(),
               record_.targets.end(),
               [&](const auto& t) { return key == t.file_prefix + ".alpha"; });
  }

  void take(const std::string& file_key, const at::Tensor& value) {
    std::string key = without_prefix(file_key);
    if (const auto found = second_names_.find(key);
        found != second_names_.end()) {
      key = found->second;
    }
    const at::Tensor* own = own_.find(key);
    if (!own && record_.config) {
      const auto plain =
          without_adapter_name(key, method_entry(*record_.config).key_prefix);
      if ((own = own_.find(plain))) {
        key = plain;
      }
    }
    if (!own && is_alpha(key)) {
      return;  // what injection from a state dict reads
    }
    if (own) {
      plan_copy(file_key, *own, value, !seen_.insert(key).second);
    } else if (second_.contains(key) || is_second_name(key, own_)) {
      // Says nothing new.
    } else if (const at::Tensor* base = base_of(key)) {
      check_base(file_key, *base, value);
    } else {
      report_.unexpected_keys.push_back(file_key);
    }
  }

  // What a file may hold of the base under `key`.
  const at::Tensor* base_of(const std::string& key) const {
    for (const Target& target : record_.targets) {
      if (target.of_method() && key.starts_with(target.file_prefix) &&
          key.substr(target.file_prefix.size()) ==
              ".base_layer." + target.tensor_name) {
        return &target.base;
      }
    }
    return record_.base_keys.find(key);
  }

  // Never written: see own_bases.h, which has made copies where values differ.
  void check_base(
      const std::string& key,
      const at::Tensor& base,
      const at::Tensor& value) {
    if (!has_values_of(base, value)) {
      report_.mismatched.push_back(concat(
          key,
          ": holds other values than the model's own tensor, which adapters "
          "never overwrite; load_adapter can take it as a copy of the "
          "adapter's own"));
    }
  }

  void plan_copy(
      const std::string& key,
      const at::Tensor& own,
      const at::Tensor& value,
      bool is_again) {
    if (is_again) {
      report_.mismatched.push_back(
          concat(key, ": given twice, with and without base_model.model."));
    } else if (own.sizes() != value.sizes()) {
      report_.mismatched.push_back(concat(
          key,
          ": given ",
          shape_text(value),
          ", the adapter has ",
          shape_text(own)));
    } else if (value.is_meta() || value.layout() != at::kStrided) {
      report_.mismatched.push_back(
          concat(key, ": given a tensor without dense memory (meta, sparse)"));
    } else if (value.scalar_type() == at::kFloat4_e2m1fn_x2) {
      report_.mismatched.push_back(concat(
          key, ": given ", value.dtype(), ", the adapter has ", own.dtype()));
    } else if (!holds_values(own.scalar_type(), value)) {
      report_.mismatched.push_back(
          concat(key, ": ", cannot_hold(own.scalar_type(), value)));
    } else {
      copies_.push_back({own, value});
    }
  }

  const AdapterRecord& record_;
  StateDict own_;
  StateDict second_;
  std::map<std::string, std::string> second_names_;
  LoadReport report_;
  std::vector<Copy> copies_;
  std::set<std::string> seen_;
};

void add_mismatches(
    const LoadReport& report,
    const StateDict& weights,
    Mistakes& mistakes) {
  for (const auto& text : report.mismatched) {
    mistakes.add(text);
  }
  if (!report.mismatched.empty()) {
    explain_empty(weights, mistakes);
  }
}

void add_missing_and_unexpected(
    const LoadReport& report,
    std::size_t own,
    std::size_t given,
    Mistakes& mistakes) {
  if (!report.missing_keys.empty()) {
    mistakes.add(concat(
        report.missing_keys.size(),
        " of ",
        own,
        " tensors of the adapter are missing: ",
        list_names(report.missing_keys)));
  }
  if (!report.unexpected_keys.empty()) {
    mistakes.add(concat(
        report.unexpected_keys.size(),
        " of ",
        given,
        " tensors given fit nowhere in this model: ",
        list_names(report.unexpected_keys)));
    explain_unexpected(report.unexpected_keys, mistakes);
  }
}

}  // namespace

LoadReport load_tensors(
    const AdapterRecord& record,
    const StateDict& weights,
    bool ignore_mismatched_sizes) {
  const Loading loading(record, weights);
  Mistakes mistakes(
      ErrorKind::shape,
      concat(
          "cannot load the state dict into adapter '",
          record.name,
          "' (was it trained with another rank or model?)"));
  if (!ignore_mismatched_sizes) {
    add_mismatches(loading.report(), weights, mistakes);
  }
  check_spelling(loading.report().unexpected_keys, mistakes);
  mistakes.raise_if_any();
  loading.copy();
  return loading.report();
}

namespace {

Loading checked(
    const AdapterRecord& record,
    const StateDict& weights,
    const std::set<std::string>& may_miss,
    const char* asking) {
  Loading loading(record, weights);
  Mistakes mistakes(
      ErrorKind::shape,
      concat(
          "[", asking, "] the weights do not fit adapter '", record.name, "'"));
  LoadReport report = loading.report();
  std::erase_if(report.missing_keys, [&](const std::string& key) {
    return may_miss.contains(key);
  });
  add_mismatches(report, weights, mistakes);
  add_missing_and_unexpected(report, loading.size(), weights.size(), mistakes);
  mistakes.raise_if_any();
  return loading;
}

}  // namespace

void check_given(
    const AdapterRecord& record,
    const StateDict& weights,
    const char* asking) {
  checked(record, weights, {}, asking);
}

void load_where_given(
    const AdapterRecord& record,
    const StateDict& weights,
    const std::set<std::string>& may_miss,
    const char* asking) {
  checked(record, weights, may_miss, asking).copy();
}

void load_all(
    const AdapterRecord& record,
    const StateDict& weights,
    bool partial) {
  const Loading loading(record, weights);
  Mistakes mistakes(
      ErrorKind::shape,
      concat("the weights do not fit adapter '", record.name, "'"));
  add_mismatches(loading.report(), weights, mistakes);
  if (partial) {
    mistakes.raise_if_any();
  }
  add_missing_and_unexpected(
      loading.report(), loading.size(), weights.size(), mistakes);
  if (!partial) {
    mistakes.raise_if_any();
  }
  if (mistakes.any()) {
    warn(mistakes.text());
  }
  loading.copy();
}

}  // namespace peft::detail
