// SPDX-License-Identifier: Apache-2.0
// Teaches the library a layer class of your own, in one line:
//
//   struct MyExpertsImpl : torch::nn::Module { torch::Tensor w1, w2; ... };
//   peft::register_layer<MyExpertsImpl>(
//       {{"w1", &MyExpertsImpl::w1}, {"w2", &MyExpertsImpl::w2}});
//
// or, where the members are private, by the names they are registered under:
//
//   peft::register_layer<MyExpertsImpl>({"w1", "w2"});
//
// libtorch's own layers are known: Linear, Embedding, Conv1d/2d/3d,
// MultiheadAttention, RNN, LSTM, GRU and their cells take adapters; these and
// norms, transposed convolutions, Bilinear, EmbeddingBag and PReLU can be in
// modules_to_save, and weights of 2 or 3 dimensions of any in
// target_parameters.
//
// Keys in files, for a layer at "path": "path.lora_A.weight" for its only
// weight with a use; "path.w1.lora_A.weight" for one of several; those without
// a use, and stacks of matrices, have PEFT's nested keys. See docs/targets.md.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
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

/// The same for a member that cannot be named here: it is looked for among the
/// members of `Layer`.
template <class Layer>
struct NamedWeight {
  NamedWeight(  // NOLINT(google-explicit-constructor)
      const char* registered_name,
      WeightUse used_by = WeightUse::any,
      std::function<std::int64_t(const Layer&)> groups_of = nullptr)
      : name(registered_name), use(used_by), groups(std::move(groups_of)) {}

  std::string name;
  WeightUse use;
  std::function<std::int64_t(const Layer&)> groups;
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

/// Where the objects of one class hold the tensors that they registered.
class PEFT_API NamedMembers {
 public:
  NamedMembers(const char* type_name, std::vector<std::string> names);

  /// For each name the member within the `size` bytes at `object`, which is
  /// `layer`; nullptr: nothing is registered under it. Throws Error (config)
  /// when a tensor is found in no member or in several.
  std::vector<at::Tensor*>
  find(const torch::nn::Module& layer, void* object, std::size_t size) const;

 private:
  struct Places;
  std::shared_ptr<Places> places_;
};

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

/// The same by the names that parameters or buffers are registered under, for
/// members that are private. Each must be a torch::Tensor that `Layer` itself
/// holds, directly or in a struct among its members, not in a container; the
/// first object that is looked at must still hold what it registered. Whatever
/// breaks this: Error (config) by what looks at the model.
template <class Layer>
void register_layer(std::initializer_list<NamedWeight<Layer>> weights) {
  std::vector<std::string> names;
  for (const auto& weight : weights) {
    names.push_back(weight.name);
  }
  detail::register_layer_kind(
      typeid(Layer).name(),
      [weights = std::vector<NamedWeight<Layer>>(weights),
       members = detail::NamedMembers(typeid(Layer).name(), std::move(names))](
          torch::nn::Module& module) {
        std::vector<detail::MemberOf> found;
        if (auto* layer = dynamic_cast<Layer*>(&module)) {
          const auto tensors = members.find(module, layer, sizeof(Layer));
          for (std::size_t i = 0; i < weights.size(); ++i) {
            if (tensors[i]) {
              const auto& groups = weights[i].groups;
              found.push_back(
                  {weights[i].name,
                   tensors[i],
                   weights[i].use,
                   groups ? groups(*layer) : 1});
            }
          }
        }
        return found;
      });
}

}  // namespace peft
