// SPDX-License-Identifier: Apache-2.0
#include "hosting/tensor_places.h"

#include "hosting/adapted_tensor.h"
#include "hosting/script_layer.h"

namespace peft::detail {
namespace {

namespace nn = torch::nn;

// A public member of a layer object that others may drop at any time.
class MemberPlace final : public TensorPlace {
 public:
  MemberPlace(std::weak_ptr<nn::Module> layer, const TensorMember& member)
      : layer_(std::move(layer)),
        name_(member.name),
        member_(member.moves ? nullptr : member.tensor) {}

  at::Tensor get() const override {
    const auto layer = layer_.lock();
    const at::Tensor* member = layer ? find(*layer) : nullptr;
    return member ? *member : at::Tensor();
  }
  void put(const at::Tensor& tensor) override {
    const auto layer = layer_.lock();
    if (at::Tensor* member = layer ? find(*layer) : nullptr) {
      *member = tensor;
      auto* script = dynamic_cast<ScriptLayer*>(layer.get());
      if (script && as_adapted(tensor)) {
        script->watch(tensor);
      }
    }
  }

 private:
  // Only a script's objects can go before their layer does.
  static bool has_members(const nn::Module& layer) {
    const auto* script = as_script_layer(layer);
    return !script || script->object();
  }

  at::Tensor* find(nn::Module& layer) const {
    if (!has_members(layer)) {
      return nullptr;
    }
    if (member_) {
      return member_;
    }
    const auto known = know_layer(layer);
    for (const TensorMember& member :
         known ? known->members : std::vector<TensorMember>{}) {
      if (member.name == name_) {
        return member.tensor;
      }
    }
    return nullptr;
  }

  std::weak_ptr<nn::Module> layer_;
  std::string name_;
  at::Tensor* member_;  // nullptr: asked for each time
};

// The places of one tensor that a model reads under several names.
class SeveralPlaces final : public TensorPlace {
 public:
  SeveralPlaces(
      std::shared_ptr<TensorPlace> first,
      std::shared_ptr<TensorPlace> rest)
      : first_(std::move(first)), rest_(std::move(rest)) {}

  at::Tensor get() const override { return first_->get(); }
  void put(const at::Tensor& tensor) override {
    first_->put(tensor);
    rest_->put(tensor);
  }

 private:
  std::shared_ptr<TensorPlace> first_;
  std::shared_ptr<TensorPlace> rest_;
};

}  // namespace

std::shared_ptr<TensorPlace> place_of_member(
    const std::shared_ptr<nn::Module>& layer,
    const TensorMember& member) {
  return std::make_shared<MemberPlace>(layer, member);
}

std::shared_ptr<TensorPlace> places_together(
    std::shared_ptr<TensorPlace> first,
    std::shared_ptr<TensorPlace> rest) {
  return std::make_shared<SeveralPlaces>(std::move(first), std::move(rest));
}

}  // namespace peft::detail
