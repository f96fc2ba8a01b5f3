// SPDX-License-Identifier: Apache-2.0
// The cases of the property matrix: each method on each layer that it has a
// form for, in each precision, in each kind of model that can hold the layer.
#pragma once

#include <gtest/gtest.h>

#include "matrix/layer_cases.h"
#include "matrix/method_cases.h"

namespace peft_test {

enum class HostKind { module, program };

// Of the layer, and whether its adapters are float32 where it is half.
struct Precision {
  torch::Dtype dtype;
  bool autocast_adapter_dtype = true;
};

using MatrixCase = std::tuple<MethodCase, LayerCase, Precision, HostKind>;

std::vector<MatrixCase> matrix_cases();

inline auto all_cases() {
  return testing::ValuesIn(matrix_cases());
}

std::string case_name(const testing::TestParamInfo<MatrixCase>& test);

}  // namespace peft_test
