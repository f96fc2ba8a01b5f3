// SPDX-License-Identifier: Apache-2.0
#include "model/expert_order.h"

#include <map>

#include <ATen/TensorOperators.h>

#include "base/text.h"
#include "base/warning.h"
#include "config/peft_version.h"
#include "model/adapter_tensors.h"

namespace peft::detail {
namespace {

bool is_stack(const Target& target) {
  return target.of_method() &&
      target.layout.form == WeightLayout::Form::stack &&
      target.layout.count > 1;
}

// Which stacks a PEFT of this version read the other way.
bool reads_other_way(const Target& target, const std::string& version) {
  const bool is_before = compare_versions(version, "0.19.0") < 0;
  const bool is_that = compare_versions(version, "0.19.0") == 0;
  return target.layout.inputs_first ? is_that : is_before || is_that;
}

bool are_factors(
    const at::Tensor& A,
    const at::Tensor& B,
    std::int64_t inputs,
    std::int64_t outputs,
    std::int64_t count) {
  return A.dim() == 2 && B.dim() == 2 && A.size(0) == B.size(1) &&
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
    const std::vector<Target>& targets,
    const AdapterConfig& config) {
  for (const Target& target : targets) {
    if (is_stack(target) && reads_other_way(target, config.peft_version)) {
      return true;
    }
  }
  return false;
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
    if (is_stack(target) && reads_other_way(target, config.peft_version)) {
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
