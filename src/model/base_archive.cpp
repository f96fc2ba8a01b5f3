// SPDX-License-Identifier: Apache-2.0
// torch::load looks for every child that the model has in the archive, those of
// adapters with the rest, which the archive of a plain model lacks. Here the
// model's own modules are walked, and nothing is copied before all is read.
#include <fstream>

#include <ATen/core/grad_mode.h>
#include <torch/serialize/input-archive.h>

#include "base/text.h"
#include "hosting/module_host.h"
#include "model/merge.h"
#include "peft/base_weights.h"

namespace peft {
namespace {

using namespace detail;
using torch::serialize::InputArchive;

struct Copy {
  at::Tensor to;
  at::Tensor from;
};

class Reading {
 public:
  Reading(const torch::nn::Module& model, const std::string& from)
      : mistakes_(
            ErrorKind::shape,
            concat(
                "[load_base_archive] ",
                from,
                " does not fit the ",
                type_name(model))) {}

  void read(
      InputArchive& archive,
      const torch::nn::Module& module,
      const std::string& path) {
    std::vector<std::string> keys = archive.keys();
    const auto take = [&](const std::string& key) {
      return std::erase(keys, key) > 0;
    };
    for (const auto& p : module.named_parameters(/*recurse=*/false)) {
      if (p.value().defined()) {
        read_tensor(archive, path, p, take(p.key()), /*is_buffer=*/false);
      }
    }
    for (const auto& b : module.named_buffers(/*recurse=*/false)) {
      if (b.value().defined()) {
        read_tensor(archive, path, b, take(b.key()), /*is_buffer=*/true);
      }
    }
    for (const auto& child : module.named_children()) {
      if (is_adapter_module(*child.value()) ||
          !child.value()->is_serializable()) {
        continue;
      }
      const std::string below = join_path(path, child.key());
      InputArchive inner;
      if (take(child.key()) && archive.try_read(child.key(), inner)) {
        read(inner, *child.value(), below);
      } else if (has_tensors(*child.value())) {
        report_.missing_keys.push_back(below);
      }
    }
    for (const std::string& key : keys) {
      note_unexpected(archive, key, path);
    }
  }

  LoadReport finish(bool strict) {
    if (strict) {
      add(" parts of the model are missing: ", report_.missing_keys);
      add(" parts of the archive are not the model's: ",
          report_.unexpected_keys);
    }
    mistakes_.raise_if_any();
    const at::NoGradGuard no_grad;
    for (const Copy& copy : copies_) {
      at::Tensor to = copy.to;
      to.copy_(copy.from);
    }
    return std::move(report_);
  }

 private:
  using Item = torch::OrderedDict<std::string, at::Tensor>::Item;

  void read_tensor(
      InputArchive& archive,
      const std::string& path,
      const Item& own,
      bool is_there,
      bool is_buffer) {
    const std::string name = join_path(path, own.key());
    at::Tensor value;
    if (!is_there || !archive.try_read(own.key(), value, is_buffer)) {
      report_.missing_keys.push_back(name);
    } else if (value.sizes() != own.value().sizes()) {
      mistakes_.add(concat(
          "'",
          name,
          "': the archive has ",
          value.sizes(),
          ", the model has ",
          own.value().sizes()));
    } else {
      copies_.push_back({own.value(), value});
    }
  }

  static bool has_tensors(const torch::nn::Module& module) {
    return !module.parameters().empty() || !module.buffers().empty();
  }

  // What holds no tensor says nothing: layers without any are in archives too,
  // and so are None's of parameters that a layer may have.
  void note_unexpected(
      InputArchive& archive,
      const std::string& key,
      const std::string& path) {
    c10::IValue value;
    if (archive.try_read(key, value) && value.isTensor()) {
      report_.unexpected_keys.push_back(join_path(path, key));
      return;
    }
    InputArchive inner;
    if (archive.try_read(key, inner)) {
      for (const std::string& below : inner.keys()) {
        note_unexpected(inner, below, join_path(path, key));
      }
    }
  }

  void add(const char* what, const std::vector<std::string>& keys) {
    if (!keys.empty()) {
      mistakes_.add(concat(
          keys.size(),
          what,
          list_names(keys),
          " (strict = false leaves them out)"));
    }
  }

  static std::string type_name(const torch::nn::Module& model) {
    return ModuleHost(model).type();
  }

  Mistakes mistakes_;
  LoadReport report_;
  std::vector<Copy> copies_;
};

LoadReport load(
    torch::nn::Module& model,
    std::istream& stream,
    const std::string& from,
    bool strict) {
  InputArchive archive;
  try {
    archive.load_from(stream, torch::kCPU);
  } catch (const c10::Error& error) {
    throw Error(
        ErrorKind::file,
        concat(
            "[load_base_archive] ",
            from,
            " is no archive that torch::save wrote (",
            error.what_without_backtrace(),
            "); load_safetensors and set_base_model_state_dict read "
            "safetensors files"));
  }
  const auto state = find_state(ModuleHost(model));
  const auto turn = take_turn(state.get());
  Reading reading(model, from);
  reading.read(archive, model, "");
  return reading.finish(strict);
}

}  // namespace

LoadReport load_base_archive(
    torch::nn::Module& model,
    const std::filesystem::path& file,
    bool strict) {
  std::ifstream stream(file, std::ios::binary);
  const std::string from = concat("'", file.string(), "'");
  if (!stream) {
    throw Error(
        ErrorKind::file,
        concat(
            "[load_base_archive] cannot open ",
            from,
            "; give a file that torch::save wrote"));
  }
  return load(model, stream, from, strict);
}

LoadReport load_base_archive(
    torch::nn::Module& model,
    std::istream& archive,
    bool strict) {
  return load(model, archive, "the archive", strict);
}

}  // namespace peft
