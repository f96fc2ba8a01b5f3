// SPDX-License-Identifier: Apache-2.0
#include "hosting/module_host.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "base/text.h"
#include "hosting/adapted_tensor.h"
#include "hosting/adapter_modules.h"
#include "hosting/layer_kinds.h"
#include "hosting/own_tensors.h"
#include "hosting/program_layers.h"
#include "hosting/script_layer.h"
#include "hosting/tensor_places.h"

namespace peft::detail {
namespace {

namespace nn = torch::nn;
using Members = std::vector<TensorMember>;

at::Tensor base_of(const at::Tensor& tensor) {
  const AdaptedTensor* adapted = as_adapted(tensor);
  return adapted ? adapted->weight()->base() : tensor;
}

void add_tensors(
    HostedLayer& layer,
    const std::shared_ptr<nn::Module>& module,
    const KnownLayer& known) {
  const auto buffers = module->named_buffers(/*recurse=*/false);
  std::function<bool()> is_training;
  if (as_script_layer(*module)) {
    is_training = [weak = std::weak_ptr(module)] {
      const auto alive = weak.lock();
      return alive && as_script_layer(*alive)->in_training();
    };
  }
  for (const TensorMember& member : known.members) {
    layer.tensors.push_back(
        {.name = member.name,
         .place = place_of_member(module, member),
         .base = base_of(*member.tensor),
         .is_buffer = buffers.contains(member.name),
         .layout = member.layout,
         .bare = member.bare,
         .holder = member.holder,
         .is_training = is_training});
  }
}

void add_unknown_tensors(HostedLayer& layer, const nn::Module& module) {
  const auto check = [&](const auto& named) {
    for (const auto& item : named) {
      const bool known = std::any_of(
          layer.tensors.begin(), layer.tensors.end(), [&](const auto& t) {
            // By name: what was registered before a tie is known, too.
            return t.name == item.key() || t.base.is_same(item.value());
          });
      if (!known && item.value().defined()) {
        layer.unknown_tensors.push_back(item.key());
      }
    }
  };
  check(module.named_parameters(/*recurse=*/false));
  check(module.named_buffers(/*recurse=*/false));
}

class Walk {
 public:
  explicit Walk(const std::set<std::string>& apart) : apart_(apart) {}

  std::vector<HostedLayer> run(const nn::Module& root) {
    layers_.push_back({.path = "", .type = type_name(root)});
    add_unknown_tensors(layers_.front(), root);
    on_path_.insert(&root);
    visit_children(root, "");
    learn_from_tied_layers();
    mark_attentions();
    return std::move(layers_);
  }

 private:
  void visit_children(const nn::Module& module, const std::string& path) {
    for (const auto& child : module.named_children()) {
      if (!is_adapter_module(*child.value())) {
        visit(child.value(), join_path(path, child.key()));
      }
    }
  }

  void visit(
      const std::shared_ptr<nn::Module>& module,
      const std::string& path) {
    if (!on_path_.insert(module.get()).second) {
      return;  // a module that contains itself
    }
    const auto [place, is_new] =
        seen_.try_emplace(module.get(), layers_.size());
    if (is_new) {
      place->second = add(describe(module, path), *module);
    } else {
      layers_[place->second].others.push_back(path);
    }
    visit_children(*module, path);
    on_path_.erase(module.get());
  }

  // Exported programs and traced scripts have lost which modules were one
  // object in Python: those with several tensors that are all the same. (One
  // tensor alone may be tied between modules, each of which has its adapter.)
  // Returns the layer's index.
  std::size_t add(HostedLayer layer, const nn::Module& module) {
    const bool is_foreign = as_program_layer(module) || as_script_layer(module);
    if (is_foreign && layer.tensors.size() > 1 && layer.adaptable() &&
        !apart_.contains(layer.path)) {
      const auto [place, is_first] = by_tensor_.try_emplace(
          layer.tensors.front().base.unsafeGetTensorImpl(), layers_.size());
      if (!is_first && is_same_module(layers_[place->second], layer)) {
        join(layers_[place->second], layer);
        return place->second;
      }
    }
    layers_.push_back(std::move(layer));
    return layers_.size() - 1;
  }

  static bool is_same_module(const HostedLayer& a, const HostedLayer& b) {
    const auto same = [](const HostedTensor& x, const HostedTensor& y) {
      return x.name == y.name && x.base.is_same(y.base) &&
          x.place->get().is_same(y.place->get());  // with the same adapters
    };
    return a.type == b.type &&
        std::equal(
               a.tensors.begin(),
               a.tensors.end(),
               b.tensors.begin(),
               b.tensors.end(),
               same);
  }

  static void join(HostedLayer& first, const HostedLayer& second) {
    first.others.push_back(second.path);
    for (std::size_t i = 0; i < first.tensors.size(); ++i) {
      first.tensors[i].place =
          places_together(first.tensors[i].place, second.tensors[i].place);
    }
  }

  // A module that forward never calls is of the kind of one that it calls and
  // that has the same tensor: T5's "shared" and "encoder.embed_tokens".
  void learn_from_tied_layers() {
    for (HostedLayer& layer : layers_) {
      if (layer.type != "Module" || layer.tensors.size() != 1) {
        continue;
      }
      HostedTensor& own = layer.tensors.front();
      for (const HostedLayer& other : layers_) {
        for (const HostedTensor& tied : other.tensors) {
          if (other.type != "Module" && tied.name == own.name &&
              tied.base.is_same(own.base)) {
            layer.type = other.type;
            layer.linear = other.linear;
            own.layout = tied.layout;
            own.bare = tied.bare;
          }
        }
      }
    }
  }

  // What an attention of libtorch multiplies has positions first, in its own
  // projections and in the layer that it brings along.
  void mark_attentions() {
    std::unordered_set<std::string> brought;
    for (HostedLayer& layer : layers_) {
      for (const std::string& name : layer.companions) {
        brought.insert(join_path(layer.path, name));
      }
      if (!layer.companions.empty() || brought.contains(layer.path)) {
        for (HostedTensor& tensor : layer.tensors) {
          if (tensor.layout) {
            tensor.layout->positions_first = true;
          }
        }
      }
    }
  }

  static HostedLayer describe(
      const std::shared_ptr<nn::Module>& module,
      const std::string& path) {
    HostedLayer layer{.path = path, .type = type_name(*module)};
    if (const auto known = know_layer(*module)) {
      layer.type = known->kind;
      layer.linear = known->linear;
      layer.companions = known->companions;
      add_tensors(layer, module, *known);
    }
    add_unknown_tensors(layer, *module);
    layer.seat = module;
    return layer;
  }

  const std::set<std::string>& apart_;
  std::vector<HostedLayer> layers_;
  std::unordered_map<const nn::Module*, std::size_t> seen_;
  std::unordered_map<const void*, std::size_t> by_tensor_;
  std::unordered_set<const nn::Module*> on_path_;
};

// Calls `see` for `module` and everything below it that belongs to the model.
void walk_own_modules(
    const nn::Module& module,
    const std::string& path,
    std::unordered_set<const nn::Module*>& seen,
    const std::function<bool(const nn::Module&, const std::string&)>& see) {
  if (!seen.insert(&module).second || !see(module, path)) {
    return;
  }
  for (const auto& child : module.named_children()) {
    if (!is_adapter_module(*child.value())) {
      walk_own_modules(*child.value(), join_path(path, child.key()), seen, see);
    }
  }
}

// Every tensor object once, under its first path: `tensors_of` says which of
// an OwnTensor's count.
template <class TensorsOf>
std::vector<std::pair<std::string, at::Tensor>> collect(
    const nn::Module& root,
    const TensorsOf& tensors_of) {
  std::vector<std::pair<std::string, at::Tensor>> found;
  std::unordered_set<const void*> tensors;
  std::unordered_set<const nn::Module*> seen;
  walk_own_modules(
      root, "", seen, [&](const nn::Module& module, const std::string& path) {
        for (const OwnTensor& own : own_tensors_of(module)) {
          for (const at::Tensor& tensor : tensors_of(own)) {
            if (tensor.defined() &&
                tensors.insert(tensor.unsafeGetTensorImpl()).second) {
              found.emplace_back(join_path(path, own.name), tensor);
            }
          }
        }
        return true;
      });
  return found;
}

}  // namespace

std::vector<HostedLayer> ModuleHost::layers() const {
  return Walk(apart_).run(root_);
}

std::vector<std::pair<std::string, at::Tensor>> ModuleHost::parameters() const {
  // What forward no longer reads is frozen and thawed with the rest.
  return collect(root_, [](const OwnTensor& own) {
    return own.is_buffer ? std::vector<at::Tensor>()
                         : std::vector{own.read, own.registered};
  });
}

std::vector<std::pair<std::string, at::Tensor>> own_tensors(
    const nn::Module& root) {
  return collect(
      root, [](const OwnTensor& own) { return std::vector{own.read}; });
}

std::string ModuleHost::type() const {
  return type_name(root_);
}

std::shared_ptr<nn::Module> ModuleHost::tree() const {
  return as_script_layer(root_)
      ? const_cast<nn::Module&>(root_).shared_from_this()
      : nullptr;
}

void ModuleHost::prepare() const {
  if (const auto* script = as_script_layer(root_)) {
    run_plainly(*script);
  }
}

void ModuleHost::pin_runs(
    const std::shared_ptr<const Activation>& activation) const {
  const auto* program = as_program_layer(root_);
  if (!program) {
    return;  // its forward is the user's own code
  }
  auto& layer = const_cast<graph::ProgramLayer&>(*program);
  layer.before_run = [weak = std::weak_ptr(activation)] {
    std::shared_ptr<ThreadChoice> pin;
    const auto own = weak.lock();
    if (own && !ThreadChoice::innermost(*own)) {
      pin = std::make_shared<ThreadChoice>(own, own->load());
    }
    return pin;
  };
}

std::shared_ptr<Owner> ModuleHost::find_owner(
    const std::function<bool(const Owner&)>& wanted) const {
  std::shared_ptr<Owner> found;
  std::unordered_set<const nn::Module*> seen;
  walk_own_modules(
      root_, "", seen, [&](const nn::Module& module, const std::string&) {
        const auto take = [&](const std::shared_ptr<Owner>& owner) {
          found = !found && owner && wanted(*owner) ? owner : found;
        };
        // A layer's forward may have set its weight anew.
        for (const auto& child : module.children()) {
          take(owner_of(*child));
        }
        // Only reads: layer kinds hand out members to write for injection.
        const auto known = know_layer(const_cast<nn::Module&>(module));
        for (const auto& member : known ? known->members : Members{}) {
          if (const auto* adapted = as_adapted(*member.tensor)) {
            take(adapted->owner());
          }
        }
        return !found;
      });
  return found;
}

}  // namespace peft::detail
