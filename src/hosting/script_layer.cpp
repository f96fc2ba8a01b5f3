// SPDX-License-Identifier: Apache-2.0
#include "hosting/script_layer.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/constants.h>

#include "hosting/adapted_tensor.h"
#include "hosting/foreign_layer.h"
#include "peft/error.h"

namespace peft::detail {
namespace {

using Object = ScriptLayer::Object;

bool is_module(const c10::TypePtr& type) {
  const auto known = type->cast<c10::ClassType>();
  return known && known->is_module();
}

bool holds_tensor(const Object& object, std::size_t slot) {
  const c10::IValue& value = object->getSlot(slot);
  return value.isTensor() && value.toTensor().defined();
}

// A tree under construction; an object with two names is one layer.
class TreeBuilder {
 public:
  std::shared_ptr<ScriptLayer> layer(const Object& object) {
    auto& made = layers_[object.get()];
    if (made) {
      return made;
    }
    made = std::make_shared<ScriptLayer>(object);
    const auto layer = made;
    const auto type = object->type();
    for (std::size_t i = 0; i < type->numAttributes(); ++i) {
      if (is_module(type->getAttribute(i)) && object->getSlot(i).isObject()) {
        layer->register_module(
            type->getAttributeName(i),
            this->layer(object->getSlot(i).toObject()));
      }
    }
    return layer;
  }

 private:
  std::unordered_map<const void*, std::shared_ptr<ScriptLayer>> layers_;
};

// The tree that the adapters in these modules live in, if there are any.
std::shared_ptr<ScriptLayer> find_tree(const torch::jit::Module& module) {
  for (const auto& tensor : module.parameters()) {
    const AdaptedTensor* adapted = as_adapted(tensor);
    if (!adapted) {
      continue;
    }
    auto tree = std::dynamic_pointer_cast<ScriptLayer>(adapted->owner()->tree);
    if (tree && tree->object() == module._ivalue()) {
      return tree;
    }
  }
  return nullptr;
}

void visit(
    const ScriptLayer& layer,
    std::unordered_set<const void*>& seen,
    const std::function<void(const Object&)>& see) {
  if (!seen.insert(&layer).second) {
    return;
  }
  if (const Object object = layer.object()) {
    see(object);
  }
  for (const auto& child : layer.children()) {
    if (const auto* inner = as_script_layer(*child)) {
      visit(*inner, seen, see);
    }
  }
}

// Scripted modules have the number as a constant of their type; traced ones
// only in the graph of forward.
std::int64_t groups_of(const c10::ClassType& type) {
  if (const auto constant = type.findConstantSlot("groups")) {
    return type.getConstant(*constant).toInt();
  }
  auto* forward = type.findMethod("forward");
  auto* function = forward ? torch::jit::tryToGraphFunction(*forward) : nullptr;
  if (!function) {
    return 1;
  }
  for (const auto* node : function->graph()->nodes()) {
    const auto* schema = node->maybeSchema();
    if (!schema || !schema->argumentIndexWithName("groups")) {
      continue;
    }
    const auto index = *schema->argumentIndexWithName("groups");
    const auto groups =
        torch::jit::toIValue(node->input(static_cast<std::size_t>(index)));
    if (groups && groups->isInt()) {
      return groups->toInt();
    }
  }
  return 1;
}

WeightUse use_of(const std::string& type, const std::string& member) {
  static const std::unordered_map<std::string, WeightUse> uses = {
      {"Linear", WeightUse::linear},
      {"NonDynamicallyQuantizableLinear", WeightUse::linear},
      {"Conv1D", WeightUse::linear_transposed},
      {"Embedding", WeightUse::embedding},
      {"Conv1d", WeightUse::convolution},
      {"Conv2d", WeightUse::convolution},
      {"Conv3d", WeightUse::convolution}};
  const auto found = uses.find(type);
  return member == "weight" && found != uses.end() ? found->second
                                                   : WeightUse::any;
}

}  // namespace

ScriptLayer::ScriptLayer(const Object& object)
    : Module(object->type()->name()->name()), object_(object.get()) {
  const auto type = object->type();
  for (std::size_t i = 0; i < type->numAttributes(); ++i) {
    const bool is_buffer = type->is_buffer(i);
    if ((!is_buffer && !type->is_parameter(i)) || !holds_tensor(object, i)) {
      continue;
    }
    const std::string& name = type->getAttributeName(i);
    const at::Tensor& tensor = tensor_in(object, i);
    const AdaptedTensor* adapted = as_adapted(tensor);
    const at::Tensor base = adapted ? adapted->weight()->base() : tensor;
    if (is_buffer) {
      register_buffer(name, base);
    } else {
      register_parameter(name, base, base.requires_grad());
    }
    members_.push_back({name, i, is_buffer});
  }
}

ScriptLayer::Object ScriptLayer::object() const {
  const bool lives = watched_.empty() ||
      std::any_of(watched_.begin(), watched_.end(), [](const auto& tensor) {
                       return !tensor.expired();
                     });
  return lives ? Object::reclaim_copy(object_) : Object();
}

void ScriptLayer::watch(const at::Tensor& adapted) {
  std::erase_if(watched_, [](const auto& tensor) { return tensor.expired(); });
  watched_.emplace_back(adapted.getIntrusivePtr());
}

bool ScriptLayer::in_training() const {
  const Object found = object();
  if (!found) {
    return is_training();
  }
  const auto slot = found->type()->findAttributeSlot("training");
  return slot ? found->getSlot(*slot).toBool() : is_training();
}

at::Tensor& tensor_in(const Object& object, std::size_t slot) {
  // The object hands out its slots to be read; there is no other way to the
  // handle itself than past that const.
  return const_cast<c10::IValue&>(object->getSlot(slot)).toTensor();
}

std::shared_ptr<ScriptLayer> script_tree(const torch::jit::Module& module) {
  if (auto found = find_tree(module)) {
    return found;
  }
  auto root = TreeBuilder().layer(module._ivalue());
  if (root->parameters().empty()) {
    throw Error(
        ErrorKind::unsupported,
        "this TorchScript module has no parameters that adapters could stand "
        "on: torch.jit.freeze and torch.jit.optimize_for_inference turn them "
        "into constants, quantization into packed objects. Load the module as "
        "it was before");
  }
  return root;
}

const ScriptLayer* as_script_layer(const torch::nn::Module& module) {
  return dynamic_cast<const ScriptLayer*>(&module);
}

KnownLayer know_script_layer(const ScriptLayer& layer) {
  const Object object = layer.object();
  if (!object) {
    return {.kind = layer.type()};
  }
  // A scripted LSTM reads a list that it keeps beside its parameters: what
  // stands in their place would never be read.
  if (object->type()->findAttributeSlot("_flat_weights")) {
    return {.kind = layer.type()};
  }
  std::vector<ForeignMember> members;
  for (const auto& member : layer.members()) {
    ForeignMember known{
        .name = member.name, .tensor = &tensor_in(object, member.slot)};
    known.use = use_of(layer.type(), member.name);
    known.takes_adapters = !member.is_buffer;
    if (known.use == WeightUse::convolution) {
      known.groups = groups_of(*object->type());
    }
    members.push_back(std::move(known));
  }
  const bool linear = layer.type() == "NonDynamicallyQuantizableLinear";
  return know_foreign_layer(linear ? "Linear" : layer.type(), members);
}

void run_plainly(const ScriptLayer& root) {
  std::unordered_set<const void*> seen;
  visit(root, seen, [](const Object& object) {
    for (auto* method : object->type()->methods()) {
      if (auto* function = torch::jit::tryToGraphFunction(*method)) {
        constexpr auto simple = torch::jit::ExecutorExecutionMode::SIMPLE;
        function->_set_initial_executor_execution_mode(simple);
        // For a method that has run already.
        function->get_executor() = torch::jit::GraphExecutor(
            function->optimized_graph(), function->name(), simple);
      }
    }
  });
}

}  // namespace peft::detail
