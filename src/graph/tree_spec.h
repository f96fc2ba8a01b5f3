// SPDX-License-Identifier: Apache-2.0
// How a program's flat inputs and outputs stand in tuples, lists, dicts and
// dataclasses.
//
// Source: torch/utils/_pytree.py, treespec_dumps protocol 1.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/ivalue.h>

namespace peft::graph {

struct TreeSpec {
  enum class Kind { leaf, tuple, list, dict };

  Kind kind = Kind::leaf;
  std::vector<std::string> keys;  // of a dict, or a dataclass's field names
  bool integer_keys = false;      // of a dict
  std::vector<TreeSpec> children;

  /// Throws BrokenJson.
  static TreeSpec parse(const std::string& text);

  std::size_t leaf_count() const;
  /// The key of a dict's child, as dicts are given and returned.
  c10::IValue key(std::size_t child) const;
  /// A name for each leaf: "logits", "past.0.1", below `prefix`.
  void leaf_names(const std::string& prefix, std::vector<std::string>& names)
      const;

  /// Appends the leaves of `value` in order; throws Error (input), with
  /// `name`, when it is built otherwise.
  void flatten(
      const c10::IValue& value,
      const std::string& name,
      std::vector<c10::IValue>& leaves) const;
  /// The value that has these leaves, from `next` on.
  c10::IValue unflatten(std::vector<c10::IValue>::iterator& next) const;
};

}  // namespace peft::graph
