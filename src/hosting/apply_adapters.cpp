// SPDX-License-Identifier: Apache-2.0
#include "hosting/apply_adapters.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/addcmul.h>

#include "hosting/adapted_tensor.h"
#include "hosting/alora_positions.h"
#include "hosting/convolution_operator.h"
#include "hosting/linear_operator.h"
#include "hosting/lookup_operator.h"
#include "hosting/mixed_batch.h"
#include "peft/adapt.h"

namespace peft::detail {
namespace {

using at::Tensor;

// y, which the operator and earlier adapters gave, without the bias.
template <class Operator>
Tensor without_bias(const Operator& op, const Tensor& y) {
  return op.bias().defined() ? y - op.bias() : y;
}

// W' = diag(gain) W.
template <class Operator>
Tensor amplify(const Operator& op, const Tensor& y, const Tensor& gain) {
  const Tensor change = op.over_outputs(gain) - 1;
  const Tensor map = without_bias(op, y);
  return map.scalar_type() == change.scalar_type() ? at::addcmul(y, map, change)
                                                   : y + map * change;
}

template <class Operator>
Tensor scale_inputs(const Operator& op, const Tensor& x, const Gain& gain) {
  return (x * op.over_inputs(gain.vector)).to(x.scalar_type());
}

// At the activated positions alone; the others stay what they are, to the bit.
template <class Operator>
Tensor add_activated(
    const Operator& op,
    const Tensor& y,
    const Tensor& x,
    const LowRankStep& step) {
  const LowRank& form = step.form;
  const Tensor rows = activated_rows(x);
  const Tensor acting = x.reshape({-1, x.size(-1)}).index_select(0, rows);
  Tensor added =
      op.product(op.input(acting, form.A, step.dropout), form.A, form.B);
  if (form.bias.defined()) {
    added = added + form.bias;
  }
  added = added * (form.scale * op.alpha());
  return y.reshape({-1, y.size(-1)})
      .index_add(0, rows, added.to(y.scalar_type()))
      .view(y.sizes());
}

template <class Operator>
Tensor add_low_rank(
    const Operator& op,
    const Tensor& y,
    const Tensor& x,
    const LowRankStep& step) {
  const LowRank& form = step.form;
  const double scale = form.scale * op.alpha();
  if (form.activated) {
    return add_activated(op, y, x, step);
  }
  const Tensor in = op.input(x, form.A, step.dropout);
  if (!form.bias.defined() && !form.A0.defined() && !form.gain.defined()) {
    return op.add_product(y, in, form.A, form.B, scale);
  }
  Tensor added = op.product(in, form.A, form.B);
  if (form.bias.defined()) {
    added = added + op.over_outputs(form.bias);
  }
  Tensor taken;  // what the base holds already
  if (form.A0.defined()) {
    taken = op.product(op.input(x, form.A0, 0), form.A0, form.B0);
  }
  if (!form.gain.defined()) {
    return at::add(y, taken.defined() ? added - taken : added, scale);
  }
  const Tensor gain = op.over_outputs(form.gain);
  if (step.dropout == 0) {
    const Tensor sum = taken.defined() ? added - taken : added;
    return amplify(op, y, form.gain) + gain * (sum * scale);
  }
  // As in PEFT, the base too is run on what dropout left.
  Tensor base = op.map(in);
  Tensor before = y;
  if (taken.defined()) {
    base = at::sub(base, op.product(in, form.A0, form.B0), scale);
    before = at::sub(y, taken, scale);
  }
  return before + (gain - 1) * base + gain * (added * scale);
}

// The first `count` steps of an operator whose plain result for an input is
// what `bottom` gives.
template <class Operator, class Bottom>
Tensor apply(
    const Operator& op,
    const Tensor& x,
    const Steps& steps,
    std::size_t count,
    const Bottom& bottom) {
  if (count == 0) {
    return bottom(x);
  }
  const Step& last = steps[count - 1];
  const auto before = [&](const Tensor& input) {
    return apply(op, input, steps, count - 1, bottom);
  };
  if (const auto* low_rank = std::get_if<LowRankStep>(&last)) {
    return add_low_rank(op, before(x), x, *low_rank);
  }
  if (const auto* rows = std::get_if<Rows>(&last)) {
    return op.replace_rows(before(x), x, *rows);
  }
  if (const auto* observed = std::get_if<Observed>(&last)) {
    (*observed->see)(x);
    return before(x);
  }
  if (const auto* offset = std::get_if<Offset>(&last)) {
    return before(x) + op.over_outputs(offset->vector);
  }
  const Gain& gain = std::get<Gain>(last);
  if (gain.side == Gain::Side::outputs) {
    return amplify(op, before(x), gain.vector);
  }
  return before(scale_inputs(op, x, gain));
}

// All steps; the result has the dtype that the plain operator gave.
template <class Operator, class Bottom>
Tensor apply_all(
    const Operator& op,
    const Tensor& x,
    const Steps& steps,
    const Bottom& bottom) {
  auto dtype = at::ScalarType::Undefined;
  const Tensor y =
      apply(op, x, steps, steps.size(), [&](const Tensor& input) -> Tensor {
        Tensor plain = bottom(input);
        dtype = plain.scalar_type();
        return plain;
      });
  return y.to(dtype);
}

// What the plain operator reads below all steps.
template <class Operator>
Tensor bottom_input(const Operator& op, const Tensor& x, const Steps& steps) {
  Tensor input = x;
  for (std::size_t i = steps.size(); i-- > 0;) {
    const auto* gain = std::get_if<Gain>(&steps[i]);
    if (gain && gain->side == Gain::Side::inputs) {
      input = scale_inputs(op, input, *gain);
    }
  }
  return input;
}

// A group's positions alone, for adapters that act from one on.
std::optional<AloraOffsets> offsets_of(
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
std::vector<Tensor> group_biases(
    const std::optional<Tensor>& bias,
    const MixedBatch& batch) {
  const AdaptedTensor* adapted = bias ? as_adapted(*bias) : nullptr;
  std::vector<Tensor> biases;
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
      const std::optional<Tensor>& bias,
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

  Tensor run(const Tensor& x) {
    split_bias();
    const Tensor sorted = rows_.in_group_order(x);
    inputs_ = rows_.split(sorted);
    run_shared(sorted);
    std::vector<Tensor> results;
    for (std::size_t g = 0; g < weight_.parts.size(); ++g) {
      results.push_back(run_group(g));
    }
    return rows_.in_batch_order(rows_.join(results));
  }

 private:
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
  void run_shared(const Tensor& sorted) {
    const auto& parts = weight_.parts;
    plain_.resize(parts.size());
    std::vector<Tensor> inputs;
    std::vector<Tensor> biases;
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
    const Tensor bias = bias_by_row_ ? rows_.join(biases) : bias_;
    const Operator op(call_, own->base, bias);
    const Tensor y = op.run(all ? sorted : rows_.join(inputs));
    const auto results = y.split_with_sizes(sizes, rows_.dim());
    std::size_t next = 0;
    for (std::size_t g = 0; g < parts.size(); ++g) {
      if (is_shared(g)) {
        plain_[g] = results[next++];
      }
    }
  }

  Tensor run_group(std::size_t g) {
    const CheapReading& part = weight_.parts[g];
    const Operator op(call_, part.base, bias_of(g));
    const auto offsets = offsets_of(*weight_.batch, weight_.batch->groups()[g]);
    std::optional<AloraScope> acting;
    if (offsets) {
      acting.emplace(*offsets);
    }
    return apply_all(op, inputs_[g], part.steps, [&](const Tensor& input) {
      return is_shared(g) ? with_own_bias(op, g) : op.run(input);
    });
  }

  // What the shared run gave, with the group's bias for the one it had.
  Tensor with_own_bias(const Operator& op, std::size_t g) const {
    if (bias_by_row_ || biases_.empty() || biases_[g].is_same(bias_)) {
      return plain_[g];
    }
    const Operator shared(call_, weight_.parts[g].base, bias_);
    return plain_[g] + (op.bias() - shared.bias()).to(plain_[g].scalar_type());
  }

  const Tensor& bias_of(std::size_t group) const {
    return biases_.empty() ? bias_ : biases_[group];
  }

  const Call& call_;
  const WeightReading& weight_;
  const RowSplit& rows_;
  Tensor bias_;                 // of the layer itself
  std::vector<Tensor> biases_;  // by group; empty: all have bias_
  Tensor sorted_bias_;
  bool bias_by_row_ = false;
  std::vector<Tensor> inputs_;
  std::vector<Tensor> plain_;  // the plain operator's results
};

template <class Operator, class Call>
Tensor apply_reading(
    const Call& call,
    const WeightReading& weight,
    const std::optional<Tensor>& bias,
    const Tensor& x,
    std::int64_t features,
    bool positions_first) {
  if (weight.batch) {
    const RowSplit rows = weight.batch->split(x, features, positions_first);
    return MixedOperator<Operator, Call>(call, weight, bias, rows).run(x);
  }
  const CheapReading& only = weight.parts.front();
  const Operator op(call, only.base, bias ? plain(*bias) : Tensor());
  return apply_all(
      op, x, only.steps, [&](const Tensor& input) { return op.run(input); });
}

}  // namespace

Tensor apply_adapters(
    const LinearCall& call,
    const WeightReading& weight,
    const std::optional<Tensor>& bias,
    const Tensor& x) {
  return apply_reading<LinearOperator>(
      call, weight, bias, x, 1, call.positions_first);
}

Tensor apply_adapters(
    const Lookup& lookup,
    const WeightReading& table,
    const Tensor& indices) {
  return apply_reading<LookupOperator>(
      lookup, table, std::nullopt, indices, 0, false);
}

Tensor apply_adapters(
    const Convolution& convolution,
    const WeightReading& kernel,
    const std::optional<Tensor>& bias,
    const Tensor& x) {
  return apply_reading<ConvolutionOperator>(
      convolution, kernel, bias, x, kernel.parts.front().base.dim() - 1, false);
}

}  // namespace peft::detail
