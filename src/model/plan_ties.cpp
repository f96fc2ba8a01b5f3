// SPDX-License-Identifier: Apache-2.0
// Weights that two layers share (an embedding and the head): where an adapter
// acts at both, and the note where it does not.
//
// Rows of tokens always act at both, as in PEFT; adapters and copies do with
// ensure_weight_tying. The second layer's target has no tensors of its own.
#include <algorithm>
#include <set>

#include "base/text.h"
#include "model/plan_parts.h"

namespace peft::detail {
namespace {

bool is_at(const Target& target, const HostedLayer& layer, const auto& tensor) {
  return target.layer_path == layer.path && target.tensor_name == tensor.name;
}

class TiePlanner {
 public:
  explicit TiePlanner(Planning& planning) : planning_(planning) {}

  void run() {
    join_what_is_one_object();
    const std::size_t own = targets().size();
    for (std::size_t i = 0; i < own; ++i) {
      if (!targets()[i].target.tied_to) {
        tie_or_note(i);
      }
    }
    if (planning_.rules.ensure_weight_tying && !tied_any_) {
      planning_.plan.report.notes.push_back(
          "ensure_weight_tying is set, but no chosen weight is tied to another "
          "layer's");
    }
  }

 private:
  std::vector<PlannedTarget>& targets() { return planning_.plan.targets; }

  // Targets without a tensor in the file that is loaded, in whose model the
  // two layers were one.
  void join_what_is_one_object() {
    std::vector<PlannedTarget> joined;
    std::erase_if(targets(), [&](PlannedTarget& planned) {
      const bool is_one = planned.target.of_method() &&
          planning_.one_object.contains(planned.target.layer_path);
      if (is_one) {
        joined.push_back(planned);
      }
      return is_one;
    });
    for (PlannedTarget& planned : joined) {
      for (std::size_t i = 0; i < targets().size(); ++i) {
        const Target& other = targets()[i].target;
        if (other.of_method() && other.base.is_same(planned.target.base)) {
          planned.target.tied_to = i;
          planned.target.is_written =
              planning_.one_object.at(planned.target.layer_path);
          planned.method = targets()[i].method;
          planned.bias.reset();
          targets().push_back(std::move(planned));
          break;
        }
      }
    }
  }

  void tie_or_note(std::size_t i) {
    const bool ties = targets()[i].target.role == Role::token_rows ||
        planning_.rules.ensure_weight_tying;
    for (const HostedLayer& layer : planning_.layers) {
      for (const HostedTensor& tensor : layer.tensors) {
        if (!tensor.base.is_same(targets()[i].target.base) ||
            is_planned(layer, tensor)) {
          continue;
        }
        if (ties) {
          tie(i, layer, tensor);
        } else if (targets()[i].target.of_method()) {
          note(targets()[i].target, join_path(layer.path, tensor.name));
        }
      }
    }
  }

  bool is_planned(const HostedLayer& layer, const HostedTensor& tensor) {
    return std::any_of(
        targets().begin(), targets().end(), [&](const PlannedTarget& planned) {
          return is_at(planned.target, layer, tensor);
        });
  }

  void
  tie(std::size_t i, const HostedLayer& layer, const HostedTensor& tensor) {
    const std::string where = join_path(layer.path, tensor.name);
    check_ownership(planning_, tensor, where);
    const PlannedTarget& owner = targets()[i];
    const bool is_adapter = owner.target.of_method();
    if (is_adapter && tensor.layout &&
        tensor.layout->form != owner.hosted.layout->form &&
        !has_form_of_head(owner)) {
      planning_.mistakes.add(
          ErrorKind::unsupported,
          concat(
              "ensure_weight_tying: '",
              where,
              "' is tied to '",
              owner.target.layer_path,
              "', and this kind of adapter has no form for a head; plain LoRA "
              "has"));
    }
    PlannedTarget tied{tensor, owner.target, owner.method};
    tied.target.layer_path = layer.path;
    tied.target.layer_type = layer.type;
    tied.target.tensor_name = tensor.name;
    tied.target.file_prefix = layer.path;
    tied.target.pattern_path = layer.path;
    tied.target.layer = layer.seat;
    tied.target.holders.clear();
    tied.target.tied_to = i;
    tied.target.is_written = owner.target.role != Role::token_rows;
    targets().push_back(std::move(tied));
    tied_any_ = true;
  }

  bool has_form_of_head(const PlannedTarget& owner) const {
    return method_entry(planning_.config).as_head &&
        owner.method->parameters(*owner.hosted.layout).size() == 2;
  }

  void note(const Target& target, const std::string& other) {
    planning_.plan.report.notes.push_back(concat(
        "'",
        join_path(target.layer_path, target.tensor_name),
        "' is the same tensor as '",
        other,
        "'; only the first is adapted, target both to adapt both, or set "
        "ensure_weight_tying for one adapter in both"));
  }

  Planning& planning_;
  bool tied_any_ = false;
};

}  // namespace

void plan_ties(Planning& planning) {
  TiePlanner(planning).run();
}

}  // namespace peft::detail
