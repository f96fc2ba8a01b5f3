// SPDX-License-Identifier: Apache-2.0
// What a program demands of its tensor inputs: rank, sizes, dtype.
//
// Source: _check_input_constraints_for_graph in torch/_export/utils.py, whose
// rule it keeps that sizes of 0 and 1 are let through where export only
// assumed "at least 2".
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/mistakes.h"
#include "graph/json_fields.h"
#include "graph/size_expression.h"

namespace peft::graph {

struct Range {
  std::optional<std::int64_t> least;
  std::optional<std::int64_t> most;
};

class InputCheck {
 public:
  /// `meta`: the tensor_meta of the input. Throws BrokenJson.
  InputCheck(std::string name, const Json& meta);

  const std::string& name() const { return name_; }
  at::ScalarType dtype() const { return dtype_; }
  void set_dtype(at::ScalarType dtype) { dtype_ = dtype; }
  /// "[s0, 128]".
  std::string shape() const;

  /// First: gives values to the symbols that stand for whole sizes.
  void bind(const at::Tensor& tensor, Symbols& symbols) const;
  /// Then: adds to `mistakes` what does not fit.
  void check(
      const at::Tensor& tensor,
      Symbols& symbols,
      const std::map<std::string, Range>& ranges,
      detail::Mistakes& mistakes) const;

 private:
  std::string name_;
  at::ScalarType dtype_;
  /// nullopt: an expression that is not known here, which nothing is asked of.
  std::vector<std::optional<SizeExpression>> sizes_;
};

}  // namespace peft::graph
