// SPDX-License-Identifier: Apache-2.0
// Weights that layers share (an embedding and the head): where an adapter acts
// at all of them, and the note where it does not.
//
// Rows of tokens always act at both, as in PEFT; adapters and copies do with
// ensure_weight_tying. The second layer's target has no tensors of its own.
#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "base/text.h"
#include "hosting/adapted_tensor.h"
#include "model/plan_parts.h"

namespace peft::detail {
namespace {

// Where a layer reads a tensor.
struct Reader {
  const HostedLayer& layer;
  const HostedTensor& tensor;

  std::string name() const { return join_path(layer.path, tensor.name); }
};

bool is_at(const Target& target, const Reader& reader) {
  return target.layer_path == reader.layer.path &&
      target.tensor_name == reader.tensor.name;
}

class TiePlanner {
 public:
  explicit TiePlanner(Planning& planning) : planning_(planning) {
    for (const HostedLayer& layer : planning.layers) {
      for (const HostedTensor& tensor : layer.tensors) {
        readers_[tensor.base.unsafeGetTensorImpl()].push_back({layer, tensor});
      }
    }
  }

  void run() {
    join_what_is_one_object();
    const std::size_t own = targets().size();
    if (!planning_.rules.ensure_weight_tying) {
      note_all();
    }
    for (std::size_t i = 0; i < own; ++i) {
      if (!targets()[i].target.tied_to) {
        tie_all(i);
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
          planning_.given.one_object.contains(planned.target.layer_path);
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
              planning_.given.one_object.at(planned.target.layer_path);
          planned.method = targets()[i].method;
          planned.bias.reset();
          targets().push_back(std::move(planned));
          break;
        }
      }
    }
  }

  using Readers = std::vector<Reader>;

  const Readers& readers_of(const Target& target) const {
    return readers_.at(target.base.unsafeGetTensorImpl());
  }

  void tie_all(std::size_t i) {
    if (targets()[i].target.role != Role::token_rows &&
        !planning_.rules.ensure_weight_tying) {
      return;
    }
    for (const Reader& reader : readers_of(targets()[i].target)) {
      if (!is_planned(reader)) {
        tie(i, reader.layer, reader.tensor);
      }
    }
  }

  bool is_planned(const Reader& reader) {
    return std::any_of(
        targets().begin(), targets().end(), [&](const PlannedTarget& planned) {
          return is_at(planned.target, reader);
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
    PlannedTarget tied = tied_at(owner, i, layer, tensor);
    tied.target.is_written = owner.target.role != Role::token_rows;
    targets().push_back(std::move(tied));
    tied_any_ = true;
  }

  bool has_form_of_head(const PlannedTarget& owner) const {
    return method_entry(planning_.config).as_head &&
        owner.method->parameters(*owner.hosted.layout).size() == 2;
  }

  // One note for each tensor that has adapters at some of its layers.
  void note_all() {
    std::unordered_set<const void*> noted;
    for (const PlannedTarget& planned : targets()) {
      const void* tensor = planned.target.base.unsafeGetTensorImpl();
      if (planned.target.of_method() && noted.insert(tensor).second) {
        note(readers_of(planned.target));
      }
    }
  }

  void note(const Readers& readers) {
    std::vector<std::string> adapted;
    std::vector<std::string> others;
    bool is_new = false;
    for (const Reader& reader : readers) {
      const bool is_target = is_planned(reader);
      (is_target ? adapted : others).push_back(reader.name());
      is_new |= is_target != has_adapters(reader);
    }
    // What an earlier adapter's injection said is not said again.
    if (others.empty() || !is_new) {
      return;
    }
    const bool one = adapted.size() == 1;
    const bool two = one && others.size() == 1;
    planning_.plan.report.notes.push_back(concat(
        list_names(adapted),
        one ? " is" : " are",
        " the same tensor as ",
        list_names(others),
        "; only the first ",
        one ? "is" : concat(adapted.size(), " are"),
        " adapted, target ",
        two ? "both to adapt both" : "all to adapt all",
        ", or set ensure_weight_tying for one adapter in ",
        two ? "both" : "all"));
  }

  static bool has_adapters(const Reader& reader) {
    return as_adapted(reader.tensor.place->get()) != nullptr;
  }

  Planning& planning_;
  std::unordered_map<const void*, Readers> readers_;
  bool tied_any_ = false;
};

}  // namespace

PlannedTarget tied_at(
    const PlannedTarget& owner,
    std::size_t index,
    const HostedLayer& layer,
    const HostedTensor& tensor) {
  PlannedTarget tied{tensor, owner.target, owner.method};
  tied.target.layer_path = layer.path;
  tied.target.layer_type = layer.type;
  tied.target.tensor_name = tensor.name;
  tied.target.file_prefix = layer.path;
  tied.target.pattern_path = layer.path;
  tied.target.layer = layer.seat;
  tied.target.holders.clear();
  tied.target.tied_to = index;
  return tied;
}

void plan_ties(Planning& planning) {
  TiePlanner(planning).run();
}

}  // namespace peft::detail
