// SPDX-License-Identifier: Apache-2.0
#include "graph/python_operators.h"

#include <map>

#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/jit/frontend/function_schema_parser.h>

#include "peft/error.h"

namespace peft::graph {
namespace {

using Arguments = std::vector<c10::IValue>;

// The experts of a mixture: rows of `input` [S, in], sorted by expert, times
// the expert's `weight` [experts, in, out]; expert i has the rows before
// offs[i]. Rows after the last offset are 0. Autograd sees plain products.
// Source: transformers, integrations/moe.py.
c10::IValue grouped_mm(const Arguments& arguments) {
  const at::Tensor input = arguments[0].toTensor();
  const at::Tensor weight = arguments[1].toTensor();
  const at::Tensor ends = arguments[2].toTensor().cpu().to(at::kLong);
  std::vector<at::Tensor> parts;
  std::int64_t start = 0;
  for (std::int64_t expert = 0; expert < ends.numel(); ++expert) {
    const auto end = ends.data_ptr<std::int64_t>()[expert];
    if (end > start) {
      parts.push_back(
          at::mm(input.slice(0, start, end), weight.select(0, expert)));
      start = end;
    }
  }
  if (start < input.size(0)) {
    parts.push_back(
        at::zeros({input.size(0) - start, weight.size(2)}, input.options()));
  }
  return parts.empty() ? at::zeros({0, weight.size(2)}, input.options())
                       : at::cat(parts);
}

std::map<std::string, PythonOperator> make_table() {
  std::map<std::string, PythonOperator> table;
  const auto add = [&](const char* target, const char* schema, auto run) {
    table.emplace(target, PythonOperator{torch::jit::parseSchema(schema), run});
  };
  add("torch.ops.transformers.grouped_mm_fallback.default",
      "transformers::grouped_mm_fallback(Tensor input, Tensor weight, "
      "Tensor offs) -> Tensor",
      grouped_mm);
  return table;
}

}  // namespace

const PythonOperator* find_python_operator(const std::string& target) {
  static const auto table = make_table();
  const auto found = table.find(target);
  return found == table.end() ? nullptr : &found->second;
}

}  // namespace peft::graph
