// SPDX-License-Identifier: Apache-2.0
// Teaches the library a layer class of your own, in one line:
//
//   struct MyExpertsImpl : torch::nn::Module { torch::Tensor w1, w2; ... };
//   peft::register_layer<MyExpertsImpl>(
//       {{"w1", &MyExpertsImpl::w1}, {"w2", &MyExpertsImpl::w2}});
//
// libtorch's own layers are known: Linear, Embedding, Conv1d/2d/3d and
// MultiheadAttention take adapters; these and the normalisation, transposed
// convolution, bilinear and recurrent-cell layers can be in modules_to_save.
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include "peft/export.h"

namespace peft {

/// Which operator reads a weight. Adapters run on their factors inside that
/// operator; any other use of the weight sees the effective weight.
enum class WeightUse {
  any,                ///< unknown: 2-D [out, in], 3-D [count, out, in]
  linear,             ///< F::linear(x, w): [out, in]
  linear_transposed,  ///< x.matmul(w): [in, out], or 3-D [count, in, out]
  embedding,          ///< torch::embedding(w, ids): [rows, dim]
  convolution,        ///< torch::conv*d(x, w): [out, in / groups, window...]
};

/// One weight of the layer class `Layer`: the name it is registered under and
/// the member that forward() reads.
template <class Layer>
struct WeightMember {
  std::string name;
  at::Tensor Layer::*member;
  WeightUse use = WeightUse::any;
  /// Groups of a convolution; not set: one.
  std::function<std::int64_t(const Layer&)> groups = nullptr;
};

namespace detail {

/// A WeightMember of one layer object.
struct MemberOf {
  std::string name;
  at::Tensor* tensor;
  WeightUse use;
  std::int64_t groups;
};

/// The members of a layer object, or nothing when it is of another class.
using MembersOf =
    std::function<std::vector<MemberOf>(torch::nn::Module& layer)>;

PEFT_API void register_layer_kind(const char* type_name, MembersOf members_of);

}  // namespace detail

/// Registers `Layer` (and classes derived from it). Kinds registered later are
/// tried first, before libtorch's own. Safe from any thread.
template <class Layer>
void register_layer(std::initializer_list<WeightMember<Layer>> members) {
  detail::register_layer_kind(
      typeid(Layer).name(),
      [members = std::vector<WeightMember<Layer>>(members)](
          torch::nn::Module& module) {
        std::vector<detail::MemberOf> found;
        if (auto* layer = dynamic_cast<Layer*>(&module)) {
          for (const auto& m : members) {
            found.push_back(
                {m.name,
                 &(layer->*m.member),
                 m.use,
                 m.groups ? m.groups(*layer) : 1});
          }
        }
        return found;
      });
}

}  // namespace peft
