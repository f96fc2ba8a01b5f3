// SPDX-License-Identifier: Apache-2.0
#include "hosting/own_tensors.h"

#include <unordered_map>

#include "hosting/adapted_tensor.h"
#include "hosting/layer_kinds.h"

namespace peft::detail {
namespace {

using Members = std::unordered_map<std::string, at::Tensor>;

// The plain tensors that stand in the members of a known layer, by name. One
// that was computed (a weight norm) is no tensor of the module's own.
Members members_of(const torch::nn::Module& module) {
  Members members;
  // Only reads: layer kinds hand out members to write for injection.
  if (auto known = know_layer(const_cast<torch::nn::Module&>(module))) {
    for (const TensorMember& member : known->members) {
      const AdaptedTensor* adapted = as_adapted(*member.tensor);
      const at::Tensor& tensor =
          adapted ? adapted->weight()->base() : *member.tensor;
      if (tensor.defined() && tensor.is_leaf()) {
        members.emplace(member.name, tensor);
      }
    }
  }
  return members;
}

}  // namespace

std::vector<OwnTensor> own_tensors_of(const torch::nn::Module& module) {
  const Members members = members_of(module);
  std::vector<OwnTensor> own;
  const auto add = [&](const auto& named, bool is_buffer) {
    for (const auto& item : named) {
      const auto member = members.find(item.key());
      const at::Tensor& read =
          member == members.end() ? item.value() : member->second;
      if (read.defined()) {
        own.push_back({item.key(), item.value(), read, is_buffer});
      }
    }
  };
  add(module.named_parameters(/*recurse=*/false), false);
  add(module.named_buffers(/*recurse=*/false), true);
  return own;
}

}  // namespace peft::detail
