// SPDX-License-Identifier: Apache-2.0
// An operator in a mixed batch: see mixed_batch.h.
#pragma once

#include "base/text.h"
#include "hosting/adapted_tensor.h"
#include "hosting/mixed_batch.h"
#include "hosting/run_steps.h"
#include "peft/adapt.h"
#include "peft/error.h"

namespace peft::detail {

// A group's positions alone, for adapters that act from one on.
inline std::optional<AloraOffsets> offsets_of(
    const MixedBatch& batch,
    const MixedBatch::Group& group) {
  const AloraOffsets* all = alora_offsets();
  if (!all || static_cast<std::int64_t>(all->size()) != batch.rows()) {
    return std::nullopt;
  }
  AloraOffsets own;
  for (const auto row : group.rows) {
    own.push_back((*all)[static_cast<std::size_t>(row)]);
  }
  return own;
}

// The bias of every group; none when they all have the same.
inline std::vector<at::Tensor> group_biases(
    const std::optional<at::Tensor>& bias,
    const MixedBatch& batch) {
  const AdaptedTensor* adapted = bias ? as_adapted(*bias) : nullptr;
  std::vector<at::Tensor> biases;
  if (adapted && adapted->weight()->mixed_batch() == &batch) {
    for (std::size_t g = 0; g < batch.groups().size(); ++g) {
      biases.push_back(
          adapted->replay(adapted->weight()->effective_in_group(g)));
    }
  }
  return biases;
}

// One operator in a mixed batch: `call` on a weight and a bias is what
// `Operator` runs.
template <class Operator, class Call>
class MixedOperator {
 public:
  MixedOperator(
      const Call& call,
      const WeightReading& weight,
      const std::optional<at::Tensor>& bias,
      const RowSplit& rows)
      : call_(call),
        weight_(weight),
        rows_(rows),
        biases_(group_biases(bias, *weight.batch)) {
    if (!biases_.empty()) {
      bias_ = base_weight(*bias);
    } else if (bias) {
      bias_ = plain(*bias);
    }
  }

  at::Tensor run(const at::Tensor& x) {
    split_bias();
    const at::Tensor sorted = rows_.in_group_order(x);
    inputs_ = rows_.split(sorted);
    run_shared(sorted);
    std::vector<at::Tensor> results;
    for (std::size_t g = 0; g < weight_.parts.size(); ++g) {
      results.push_back(run_group(g));
    }
    check_widths(results);
    return rows_.in_batch_order(rows_.join(results));
  }

 private:
  // Adapters may have vocabularies of their own.
  void check_widths(const std::vector<at::Tensor>& results) const {
    for (const at::Tensor& result : results) {
      if (result.size(-1) != results.front().size(-1)) {
        throw Error(
            ErrorKind::unsupported,
            concat(
                "'",
                weight_.layer,
                "' gives some rows of this mixed batch ",
                results.front().size(-1),
                " values and others ",
                result.size(-1),
                ": an adapter has a vocabulary of its own; run its rows by "
                "themselves (UseAdapter)"));
      }
    }
  }

  // A bias of its own for each row, which addmm may be given.
  void split_bias() {
    if (bias_.defined() && bias_.dim() > 1 && bias_.size(0) > 1) {
      sorted_bias_ = rows_.in_group_order(bias_);
      biases_ = rows_.split(sorted_bias_);
      bias_by_row_ = true;
    }
  }

  bool is_shared(std::size_t group) const {
    return weight_.parts[group].is_own;
  }

  // The plain operator, once for all groups that run on the layer's own weight.
  void run_shared(const at::Tensor& sorted) {
    const auto& parts = weight_.parts;
    plain_.resize(parts.size());
    std::vector<at::Tensor> inputs;
    std::vector<at::Tensor> biases;
    std::vector<std::int64_t> sizes;
    bool all = true;
    const CheapReading* own = nullptr;
    for (std::size_t g = 0; g < parts.size(); ++g) {
      if (!is_shared(g)) {
        all = false;
        continue;
      }
      own = &parts[g];
      const Operator op(call_, parts[g].base, bias_of(g));
      inputs.push_back(bottom_input(op, inputs_[g], parts[g].steps));
      all = all && inputs.back().is_same(inputs_[g]);
      sizes.push_back(inputs_[g].size(rows_.dim()));
      if (bias_by_row_) {
        biases.push_back(biases_[g]);
      }
    }
    if (!own) {
      return;
    }
    const at::Tensor bias = bias_by_row_ ? rows_.join(biases) : bias_;
    const Operator op(call_, own->base, bias);
    const at::Tensor y = op.run(all ? sorted : rows_.join(inputs));
    const auto results = sizes.size() == 1
        ? std::vector<at::Tensor>{y}
        : y.split_with_sizes(sizes, rows_.dim());
    std::size_t next = 0;
    for (std::size_t g = 0; g < parts.size(); ++g) {
      if (is_shared(g)) {
        plain_[g] = results[next++];
      }
    }
  }

  at::Tensor run_group(std::size_t g) {
    const CheapReading& part = weight_.parts[g];
    const Operator op(call_, part.base, bias_of(g));
    const auto offsets = offsets_of(*weight_.batch, weight_.batch->groups()[g]);
    std::optional<AloraScope> acting;
    if (offsets) {
      acting.emplace(*offsets);
    }
    return apply_all(op, inputs_[g], part.steps, [&](const at::Tensor& input) {
      return is_shared(g) ? with_own_bias(op, g) : op.run(input);
    });
  }

  // What the shared run gave, with the group's bias for the one it had.
  at::Tensor with_own_bias(const Operator& op, std::size_t g) const {
    if (bias_by_row_ || biases_.empty() || biases_[g].is_same(bias_)) {
      return plain_[g];
    }
    const Operator shared(call_, weight_.parts[g].base, bias_);
    return plain_[g] + (op.bias() - shared.bias()).to(plain_[g].scalar_type());
  }

  const at::Tensor& bias_of(std::size_t group) const {
    return biases_.empty() ? bias_ : biases_[group];
  }

  const Call& call_;
  const WeightReading& weight_;
  const RowSplit& rows_;
  at::Tensor bias_;                 // of the layer itself
  std::vector<at::Tensor> biases_;  // by group; empty: all have bias_
  at::Tensor sorted_bias_;
  bool bias_by_row_ = false;
  std::vector<at::Tensor> inputs_;
  std::vector<at::Tensor> plain_;  // the plain operator's results
};

}  // namespace peft::detail
