// SPDX-License-Identifier: Apache-2.0
#include "matrix/matrix_cases.h"

#include <algorithm>

namespace peft_test {
namespace {

bool is_tried(const MatrixCase& one) {
  const auto& [method, layer, precision, host] = one;
  const bool is_one_of_two = precision.autocast_adapter_dtype &&
      (precision.dtype == torch::kFloat32 ||
       precision.dtype == torch::kBFloat16);
  return (layer.every_dtype || is_one_of_two) &&
      (host == HostKind::module || layer.add_node) &&  // else several nodes
      std::all_of(layer.weights.begin(), layer.weights.end(), method.fits);
}

}  // namespace

std::vector<MatrixCase> matrix_cases() {
  std::vector<MatrixCase> cases;
  const auto layers = layer_cases();
  for (const MethodCase& method : method_cases()) {
    for (const LayerCase& layer : layers) {
      for (const Precision& precision :
           {Precision{torch::kFloat32},
            Precision{torch::kFloat64},
            Precision{torch::kBFloat16},
            Precision{torch::kFloat16},
            Precision{torch::kBFloat16, /*autocast_adapter_dtype=*/false}}) {
        for (const HostKind host : {HostKind::module, HostKind::program}) {
          if (MatrixCase one{method, layer, precision, host}; is_tried(one)) {
            cases.push_back(std::move(one));
          }
        }
      }
    }
  }
  return cases;
}

std::string case_name(const testing::TestParamInfo<MatrixCase>& test) {
  const bool module = std::get<3>(test.param) == HostKind::module;
  const Precision& precision = std::get<2>(test.param);
  return std::get<0>(test.param).name + "_" + std::get<1>(test.param).name +
      "_" + c10::toString(precision.dtype) +
      (precision.autocast_adapter_dtype ? "" : "_throughout") +
      (module ? "_module" : "_program");
}

}  // namespace peft_test
