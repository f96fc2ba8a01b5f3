// SPDX-License-Identifier: Apache-2.0
// Operators that Python libraries define for themselves and that real models
// are exported with, written anew from their documentation.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

namespace peft::graph {

struct PythonOperator {
  c10::FunctionSchema schema;
  c10::IValue (*run)(const std::vector<c10::IValue>& arguments);
};

/// The operator of a node target, or nullptr.
const PythonOperator* find_python_operator(const std::string& target);

}  // namespace peft::graph
