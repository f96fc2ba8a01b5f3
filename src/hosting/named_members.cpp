// SPDX-License-Identifier: Apache-2.0
// Finds the member that holds a registered tensor by the one thing both share:
// the tensor's address. A member's place within its object is the same in every
// object of the class, so one that holds another tensor now (an adapted one) is
// found too.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include <c10/util/Type.h>

#include "base/text.h"
#include "hosting/adapted_tensor.h"
#include "peft/error.h"
#include "peft/layer_kinds.h"

namespace peft::detail {
namespace {

static_assert(
    sizeof(at::Tensor) == sizeof(void*) &&
        alignof(at::Tensor) == alignof(void*),
    "an at::Tensor is one pointer to its TensorImpl");

using Offsets = std::vector<std::size_t>;

at::Tensor registered(const torch::nn::Module& layer, const std::string& name) {
  const auto parameters = layer.named_parameters(/*recurse=*/false);
  if (const at::Tensor* found = parameters.find(name)) {
    return *found;
  }
  const auto buffers = layer.named_buffers(/*recurse=*/false);
  const at::Tensor* found = buffers.find(name);
  return found ? *found : at::Tensor();
}

// Where in an object the address of `tensor` stands, the part that every
// module has aside.
Offsets places_of(
    const at::Tensor& tensor,
    const torch::nn::Module& layer,
    const std::byte* object,
    std::size_t size) {
  const void* wanted = tensor.unsafeGetTensorImpl();
  const auto* own = reinterpret_cast<const std::byte*>(&layer);
  Offsets found;
  for (std::size_t at = 0; at + sizeof(void*) <= size; at += sizeof(void*)) {
    const std::byte* place = object + at;
    if (place >= own && place < own + sizeof(torch::nn::Module)) {
      continue;
    }
    const void* there = nullptr;
    std::memcpy(&there, place, sizeof(there));
    if (there == wanted) {
      found.push_back(at);
    }
  }
  return found;
}

at::Tensor* tensor_at(void* object, std::size_t offset) {
  return reinterpret_cast<at::Tensor*>(
      static_cast<std::byte*>(object) + offset);
}

}  // namespace

struct NamedMembers::Places {
  std::string type;
  std::vector<std::string> names;
  mutable std::mutex mutex;
  std::unordered_map<std::string, Offsets> known;

  [[noreturn]] void refuse(const std::string& name, std::size_t count) const {
    throw Error(
        ErrorKind::config,
        concat(
            "[register_layer] '",
            name,
            "' of ",
            type,
            count == 0 ? " stands in no member of it that is a tensor (it may "
                         "be in a container, or forward may have set it anew "
                         "before it was looked for)"
                       : " stands in several of its members",
            "; give register_layer the member: {\"",
            name,
            "\", &",
            type,
            "::member}"));
  }

  at::Tensor* find(
      const std::string& name,
      const torch::nn::Module& layer,
      void* object,
      std::size_t size) {
    const at::Tensor tensor = registered(layer, name);
    if (!tensor.defined()) {
      return nullptr;
    }
    const auto here =
        places_of(tensor, layer, static_cast<std::byte*>(object), size);
    const std::lock_guard lock(mutex);
    Offsets& all = known[name];
    if (here.size() == 1) {
      if (std::find(all.begin(), all.end(), here[0]) == all.end()) {
        all.push_back(here[0]);
      }
      return tensor_at(object, here[0]);
    }
    if (here.size() > 1) {
      refuse(name, here.size());
    }
    for (const std::size_t offset : all) {
      at::Tensor* member = tensor_at(object, offset);
      const auto* adapted = as_adapted(*member);
      if (adapted && adapted->weight()->base().is_same(tensor)) {
        return member;
      }
    }
    if (all.size() != 1) {
      refuse(name, 0);
    }
    return tensor_at(object, all[0]);  // set anew, or another's (tied)
  }
};

NamedMembers::NamedMembers(
    const char* type_name,
    std::vector<std::string> names)
    : places_(std::make_shared<Places>()) {
  places_->type = c10::demangle(type_name);
  places_->names = std::move(names);
}

std::vector<at::Tensor*> NamedMembers::find(
    const torch::nn::Module& layer,
    void* object,
    std::size_t size) const {
  std::vector<at::Tensor*> found;
  for (const std::string& name : places_->names) {
    found.push_back(places_->find(name, layer, object, size));
  }
  return found;
}

}  // namespace peft::detail
