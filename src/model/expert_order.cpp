// SPDX-License-Identifier: Apache-2.0
#include "model/expert_order.h"

#include <algorithm>
#include <map>

#include <ATen/TensorOperators.h>

#include "base/text.h"
#include "base/warning.h"
#include "config/peft_version.h"
#include "model/adapter_tensors.h"

namespace peft::detail {
namespace {

// One that a PEFT of the config's version read the other way.
bool is_older(const Target& target, const AdapterConfig& config) {
  return target.of_method() && is_of_older_order(target.layout, config);
}

bool are_factors(
    const at::Tensor& A,
    const at::Tensor& B,
    std::int64_t inputs,
    std::int64_t outputs,
    std::int64_t count) {
  return A.layout() == at::kStrided && B.layout() == at::kStrided &&
      A.dim() == 2 && B.dim() == 2 && A.size(0) == B.size(1) && A.size(0) > 0 &&
      A.size(0) % count == 0 && A.size(1) == inputs && B.size(0) == outputs;
}

class Reorder {
 public:
  Reorder(const AdapterConfig& config, StateDict& weights)
      : key_prefix_(method_entry(config).key_prefix), weights_(weights) {
    for (const auto& item : weights) {
      keys_.emplace(
          without_adapter_name(without_prefix(item.key()), key_prefix_),
          item.key());
    }
  }

  void run(const Target& target) {
    const auto a = keys_.find(target.file_prefix + ".lora_A.weight");
    const auto b = keys_.find(target.file_prefix + ".lora_B.weight");
    if (a == keys_.end() || b == keys_.end()) {
      return;
    }
    at::Tensor& A = weights_[a->second];
    at::Tensor& B = weights_[b->second];
    const std::int64_t inputs = target.layout.inputs;
    const std::int64_t outputs = target.layout.outputs;
    const std::int64_t count = target.layout.count;
    const bool fits_then = are_factors(A, B, outputs, inputs, count);
    const bool fits_now = are_factors(A, B, inputs, outputs, count);
    const bool is_of_file = without_prefix(a->second) != a->second;
    if (!fits_then || (fits_now && !is_of_file)) {
      return;
    }
    const at::Tensor next_A =
        B.reshape({inputs, -1, count}).permute({2, 1, 0}).reshape({-1, inputs});
    const at::Tensor next_B = A.reshape({count, -1, outputs})
                                  .permute({2, 1, 0})
                                  .reshape({outputs, -1});
    A = next_A;
    B = next_B;
    changed_.push_back(target.file_prefix);
  }

  const std::vector<std::string>& changed() const { return changed_; }

 private:
  std::string key_prefix_;
  StateDict& weights_;
  std::map<std::string, std::string> keys_;  // plain, given
  std::vector<std::string> changed_;
};

}  // namespace

bool is_of_older_order(
    const WeightLayout& layout,
    const AdapterConfig& config) {
  if (layout.form != WeightLayout::Form::stack || layout.count <= 1) {
    return false;
  }
  const auto order = compare_versions(config.peft_version, "0.19.0");
  return order == 0 || (order < 0 && !layout.inputs_first);
}

bool is_of_older_order(
    const std::vector<Target>& targets,
    const AdapterConfig& config) {
  return std::any_of(targets.begin(), targets.end(), [&](const Target& target) {
    return is_older(target, config);
  });
}

StateDict in_todays_order(
    const std::vector<Target>& targets,
    const AdapterConfig& config,
    StateDict weights,
    bool quiet) {
  if (!is_of_older_order(targets, config)) {
    return weights;
  }
  Reorder reorder(config, weights);
  for (const Target& target : targets) {
    if (is_older(target, config)) {
      reorder.run(target);
    }
  }
  if (!quiet && !reorder.changed().empty()) {
    warn(concat(
        config.peft_version.empty()
            ? "the config says no peft_version, as before PEFT 0.18"
            : concat("the config is of PEFT ", config.peft_version),
        ", which before 0.19.1 wrote the factors of experts for the transposed "
        "map; those of ",
        list_names(reorder.changed()),
        " are converted to today's. Were they trained by a newer PEFT, set "
        "peft_version in adapter_config.json"));
  }
  return weights;
}

}  // namespace peft::detail
