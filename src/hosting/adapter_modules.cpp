// SPDX-License-Identifier: Apache-2.0
#include "hosting/adapter_modules.h"

#include <algorithm>

#include <torch/nn/modules/container/moduledict.h>
#include <torch/nn/modules/container/parameterdict.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/rnn.h>

#include "base/text.h"
#include "hosting/adapted_tensor.h"
#include "hosting/replace_data.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

namespace nn = torch::nn;

thread_local int recurrent_moves = 0;

// Marks the containers of this file, and tells adapted weights of dtype
// changes: Module::to() visits children before it casts the base.
class AdapterContainer {
 public:
  virtual ~AdapterContainer() = default;
  virtual bool is_empty() const = 0;
  virtual void erase(const std::string& adapter) = 0;

  /// RNN, LSTM and GRU read their parameters anew when they are moved, and drop
  /// what stood in their place, with no way to put it back afterwards.
  void forbid_moving(bool forbidden) { may_move_ = !forbidden; }

  /// The state of a model whose tree it keeps itself is not kept by the tree.
  void belong_to(const std::shared_ptr<Owner>& owner) {
    owner_ = owner;
    kept_owner_ = owner && !owner->tree ? owner : nullptr;
  }
  std::shared_ptr<Owner> owner() const { return owner_.lock(); }

  void follow(const std::shared_ptr<AdaptedWeight>& weight) {
    std::erase_if(weights_, [&](const auto& other) {
      return other.expired() || other.lock() == weight;
    });
    weights_.push_back(weight);
  }

 protected:
  void check_moving() const {
    if (!may_move_ && recurrent_moves == 0) {
      throw Error(
          ErrorKind::state,
          "a recurrent layer with adapters cannot be moved with the model's "
          "own to(), which would take them off without a word; call "
          "peft::to(model, ...), also to finish what this call began: layers "
          "before this one have moved");
    }
  }
  void announce(torch::Dtype dtype) const {
    for (const auto& followed : weights_) {
      if (const auto weight = followed.lock()) {
        weight->announce_dtype(dtype);
      }
    }
  }

 private:
  std::vector<std::weak_ptr<AdaptedWeight>> weights_;
  std::weak_ptr<Owner> owner_;
  std::shared_ptr<Owner> kept_owner_;
  bool may_move_ = true;
};

template <class Dict>
class Announcing : public Dict, public AdapterContainer {
 public:
  using Dict::Dict;

  void to(torch::Device device, torch::Dtype dtype, bool non_blocking)
      override {
    check_moving();
    Dict::to(device, dtype, non_blocking);
    announce(dtype);
  }
  void to(torch::Dtype dtype, bool non_blocking) override {
    check_moving();
    Dict::to(dtype, non_blocking);
    announce(dtype);
  }
  void to(torch::Device device, bool non_blocking) override {
    check_moving();
    Dict::to(device, non_blocking);
  }
};

class AdapterModules final : public Announcing<nn::ModuleDictImpl> {
 public:
  bool is_empty() const override { return empty(); }
  void erase(const std::string& adapter) override {
    if (contains(adapter)) {
      pop(adapter);
      unregister_module(adapter);
    }
  }
};

class AdapterParameters final : public Announcing<nn::ParameterDictImpl> {
 public:
  bool is_empty() const override { return empty(); }
  void erase(const std::string& adapter) override {
    if (contains(adapter)) {
      pop(adapter);
    }
  }
};

// "base_layer", "q_proj": a level of the tree between a layer and its dicts.
class HolderLevel final : public Announcing<nn::Module> {
 public:
  HolderLevel() : Announcing("Holder") {}
  bool is_empty() const override { return children().empty(); }
  void erase(const std::string&) override {}
};

// Carries tensors that no libtorch layer would describe rightly.
class Holder final : public nn::Module {
 public:
  Holder() : Module("Parameters") {}

  void pretty_print(std::ostream& stream) const override {
    stream << "Parameters(";
    const char* comma = "";
    for (const auto& p : named_parameters(/*recurse=*/false)) {
      stream << comma << p.key() << "=" << p.value().sizes();
      comma = ", ";
    }
    stream << ")";
  }
};

std::shared_ptr<nn::Module> child(
    const nn::Module& module,
    const std::string& name) {
  const auto children = module.named_children();
  const auto* found = children.find(name);
  return found ? *found : nullptr;
}

// What a child `name` of `parent` is called in the tree. Archives keep children
// beside parameters and buffers, so it must differ from theirs.
std::string child_name(const nn::Module& parent, std::string name) {
  const auto parameters = parent.named_parameters(/*recurse=*/false);
  const auto buffers = parent.named_buffers(/*recurse=*/false);
  while (parameters.contains(name) || buffers.contains(name)) {
    name += "_";
  }
  return name;
}

bool is_recurrent(const nn::Module& layer) {
  return dynamic_cast<const nn::RNNImpl*>(&layer) ||
      dynamic_cast<const nn::LSTMImpl*>(&layer) ||
      dynamic_cast<const nn::GRUImpl*>(&layer);
}

// The container `name` of `parent`, made if need be. Two methods may call
// containers of different kinds by one name (LoRA's and AdaLoRA's lora_A): the
// later one's gets a name of its own.
template <class Container>
std::shared_ptr<Container> container(nn::Module& parent, std::string name) {
  name = child_name(parent, name);
  auto found = std::dynamic_pointer_cast<Container>(child(parent, name));
  if (!found && child(parent, name)) {
    name = child_name(parent, name + "_");
    found = std::dynamic_pointer_cast<Container>(child(parent, name));
  }
  if (!found) {
    found = parent.register_module(name, std::make_shared<Container>());
    found->train(parent.is_training());
    found->forbid_moving(is_recurrent(parent));
  }
  return found;
}

std::shared_ptr<nn::Module> find_seat(const Seat& seat) {
  std::shared_ptr<nn::Module> module = seat.layer;
  for (const auto& holder : seat.holders) {
    module = module ? child(*module, child_name(*module, holder)) : nullptr;
  }
  return module;
}

void register_tensor(
    nn::Module& holder,
    const ParameterSpec& spec,
    const at::Tensor& tensor) {
  if (spec.is_buffer) {
    holder.register_buffer(spec.leaf, tensor);
  } else {
    holder.register_parameter(spec.leaf, tensor, tensor.requires_grad());
  }
}

void seat_tensor(
    nn::Module& parent,
    const std::string& adapter,
    const SeatedTensor& seated,
    const std::shared_ptr<AdaptedWeight>& weight) {
  const ParameterSpec& spec = seated.spec;
  if (spec.carrier == ParameterSpec::Carrier::none) {
    return;
  }
  if (spec.carrier == ParameterSpec::Carrier::bare_parameter) {
    const auto dict = container<AdapterParameters>(parent, spec.dict);
    dict->insert(adapter, seated.tensor);
    dict->follow(weight);
    return;
  }
  const auto dict = container<AdapterModules>(parent, spec.dict);
  dict->follow(weight);
  if (!dict->contains(adapter)) {
    seated.carrier->train(parent.is_training());
    dict->update({{adapter, seated.carrier}});
  } else if (spec.carrier == ParameterSpec::Carrier::holder) {
    // A second tensor of one layer: weight and bias of a saved module.
    register_tensor(*(*dict)[adapter], spec, seated.tensor);
  }
}

}  // namespace

SeatedTensor make_seated(const ParameterSpec& spec, const at::Tensor& value) {
  if (spec.carrier == ParameterSpec::Carrier::bare_parameter ||
      spec.carrier == ParameterSpec::Carrier::none) {
    return {spec, value, nullptr};
  }
  if (spec.carrier == ParameterSpec::Carrier::linear) {
    // Made small and given its real weight, so that no time goes into random
    // numbers that nobody reads.
    nn::Linear linear(nn::LinearOptions(1, 1).bias(false));
    linear->options.in_features(value.size(1)).out_features(value.size(0));
    replace_data(linear->weight, value);
    linear->weight.set_requires_grad(value.requires_grad());
    return {spec, linear->weight, linear.ptr()};
  }
  auto holder = std::make_shared<Holder>();
  register_tensor(*holder, spec, value);
  return {spec, value, holder};
}

std::shared_ptr<nn::DropoutImpl> make_dropout(double p) {
  return p > 0 ? std::make_shared<nn::DropoutImpl>(nn::DropoutOptions(p))
               : nullptr;
}

std::string taken_name(const Seat& seat, const SeatedAdapter& adapter) {
  std::vector<std::string> names = seat.holders;
  if (names.empty()) {
    names.push_back(adapter.dropout_dict);
    for (const auto& seated : adapter.tensors) {
      names.push_back(seated.spec.dict);
    }
  } else {
    names.resize(1);
  }
  for (const auto& given : names) {
    const std::string name = child_name(*seat.layer, given);
    const auto found = child(*seat.layer, name);
    if (found && !is_adapter_module(*found)) {
      return name;
    }
  }
  return "";
}

void register_adapter(
    const Seat& seat,
    const std::string& name,
    const SeatedAdapter& adapter,
    const std::shared_ptr<AdaptedWeight>& weight,
    const std::shared_ptr<Owner>& owner) {
  std::shared_ptr<nn::Module> parent = seat.layer;
  for (const auto& holder : seat.holders) {
    parent = container<HolderLevel>(*parent, holder);
  }
  if (!adapter.dropout_dict.empty()) {
    const auto dict = container<AdapterModules>(*parent, adapter.dropout_dict);
    std::shared_ptr<nn::Module> dropout = adapter.dropout;
    if (!dropout) {
      dropout = std::make_shared<nn::IdentityImpl>();
    }
    dropout->train(parent->is_training());
    dict->update({{name, dropout}});
  }
  for (const SeatedTensor& seated : adapter.tensors) {
    seat_tensor(*parent, name, seated, weight);
  }
  for (const auto& module : seat.layer->children()) {
    auto* dict = dynamic_cast<AdapterContainer*>(module.get());
    if (dict && !dict->owner()) {
      dict->belong_to(owner);
    }
  }
}

void follow_dtype(
    const Seat& seat,
    const SeatedAdapter& adapter,
    const std::shared_ptr<AdaptedWeight>& weight) {
  const auto parent = find_seat(seat);
  const auto dict =
      child(*parent, child_name(*parent, adapter.tensors.front().spec.dict));
  dynamic_cast<AdapterContainer&>(*dict).follow(weight);
}

namespace {

// Of the containers that `is_meant` accepts.
template <class IsMeant>
void unregister_from(
    const Seat& seat,
    const std::string& name,
    const IsMeant& is_meant) {
  const auto parent = find_seat(seat);
  if (!parent) {
    return;
  }
  for (const auto& [key, module] : parent->named_children().pairs()) {
    auto* dict = dynamic_cast<AdapterContainer*>(module.get());
    if (dict && is_meant(key)) {
      dict->erase(name);
      if (dict->is_empty()) {
        parent->unregister_module(key);
      }
    }
  }
  if (!seat.holders.empty() && parent->children().empty()) {
    Seat above = seat;
    above.holders.pop_back();
    if (const auto module = find_seat(above)) {
      module->unregister_module(child_name(*module, seat.holders.back()));
    }
  }
}

}  // namespace

void unregister_adapter(const Seat& seat, const std::string& name) {
  unregister_from(seat, name, [](const std::string&) { return true; });
}

void unregister_target(
    const Seat& seat,
    const std::string& name,
    const std::string& dropout_dict,
    const std::vector<ParameterSpec>& specs) {
  unregister_from(seat, name, [&](const std::string& key) {
    // The second of two containers of one name has a "_" behind it.
    const auto is_of = [&](const std::string& dict) {
      return !dict.empty() && (key == dict || key == dict + "_");
    };
    return is_of(dropout_dict) ||
        std::any_of(specs.begin(), specs.end(), [&](const auto& spec) {
             return is_of(spec.dict);
           });
  });
}

bool is_adapter_module(const nn::Module& module) {
  return dynamic_cast<const AdapterContainer*>(&module) != nullptr;
}

std::shared_ptr<Owner> owner_of(const nn::Module& module) {
  const auto* dict = dynamic_cast<const AdapterContainer*>(&module);
  return dict ? dict->owner() : nullptr;
}

MovesRecurrentLayers::MovesRecurrentLayers() {
  ++recurrent_moves;
}

MovesRecurrentLayers::~MovesRecurrentLayers() {
  --recurrent_moves;
}

}  // namespace peft::detail
