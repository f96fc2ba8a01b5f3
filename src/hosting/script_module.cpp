// SPDX-License-Identifier: Apache-2.0
#include "peft/script_module.h"

#include <ostream>
#include <streambuf>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/jit/api/module.h>

#include "base/callback_file.h"
#include "hosting/adapted_tensor.h"
#include "hosting/script_layer.h"

namespace peft {
namespace {

using detail::ScriptLayer;

// Puts plain tensors in the places of adapted ones, and those back at its end.
class PlainTensors {
 public:
  PlainTensors(const ScriptLayer& root, bool merged) { visit(root, merged); }
  ~PlainTensors() {
    for (auto place = places_.rbegin(); place != places_.rend(); ++place) {
      detail::tensor_in(place->object, place->slot) = place->adapted;
    }
  }
  PlainTensors(const PlainTensors&) = delete;
  PlainTensors& operator=(const PlainTensors&) = delete;

 private:
  struct Place {
    ScriptLayer::Object object;
    std::size_t slot;
    at::Tensor adapted;
  };

  void visit(const ScriptLayer& layer, bool merged) {
    const auto object = layer.object();
    for (const auto& member : layer.members()) {
      at::Tensor& place = detail::tensor_in(object, member.slot);
      const auto* adapted = detail::as_adapted(place);
      if (!adapted) {
        continue;
      }
      const at::Tensor base = adapted->weight()->base();
      places_.push_back({object, member.slot, place});
      place = merged
          ? adapted->read().detach().set_requires_grad(base.requires_grad())
          : base;
    }
    for (const auto& child : layer.children()) {
      if (const auto* inner = detail::as_script_layer(*child)) {
        visit(*inner, merged);
      }
    }
  }

  std::vector<Place> places_;
};

// Hands what a stream is given to a file.
class FileBuffer final : public std::streambuf {
 public:
  explicit FileBuffer(detail::CallbackFile& file) : file_(file) {}

 private:
  std::streamsize xsputn(const char* data, std::streamsize size) override {
    return static_cast<std::streamsize>(
        file_.write(data, static_cast<std::size_t>(size)));
  }
  int_type overflow(int_type character) override {
    const char byte = traits_type::to_char_type(character);
    return xsputn(&byte, 1) == 1 ? character : traits_type::eof();
  }

  detail::CallbackFile& file_;
};

void save(
    const torch::jit::Module& module,
    const std::filesystem::path& path,
    bool merged) {
  const at::NoGradGuard no_grad;
  const auto root = detail::script_tree(module);
  const PlainTensors plain(*root, merged);
  detail::CallbackFile file(path);
  FileBuffer buffer(file);
  std::ostream stream(&buffer);
  file.guard([&] { module.save(stream); });
  file.publish();
}

}  // namespace

ScriptModule::ScriptModule(const torch::jit::Module& module)
    : tree_(detail::script_tree(module)) {}

void save_script(
    const torch::jit::Module& module,
    const std::filesystem::path& path) {
  save(module, path, /*merged=*/false);
}

void save_merged(
    const torch::jit::Module& module,
    const std::filesystem::path& path) {
  save(module, path, /*merged=*/true);
}

}  // namespace peft
