// SPDX-License-Identifier: Apache-2.0
#include "model/wrapper_names.h"

#include <algorithm>
#include <map>
#include <vector>

#include "base/text.h"
#include "base/warning.h"
#include "model/adapter_tensors.h"
#include "model/file_keys.h"

namespace peft::detail {
namespace {

struct Wrapper {
  std::string_view part;
  const char* of;
};

constexpr Wrapper wrappers[] = {
    {"_orig_mod", "torch.compile"},
    {"module", "DataParallel or DistributedDataParallel"},
    {"_fsdp_wrapped_module", "FullyShardedDataParallel"},
    {"_checkpoint_wrapped_module", "activation checkpointing"}};

const Wrapper* wrapper_called(std::string_view part) {
  for (const Wrapper& wrapper : wrappers) {
    if (part == wrapper.part) {
      return &wrapper;
    }
  }
  return nullptr;
}

std::vector<const Wrapper*> wrappers_in(const std::string& key) {
  std::vector<const Wrapper*> found;
  for (const Wrapper& wrapper : wrappers) {
    if (key.find(wrapper.part) == std::string::npos) {
      continue;  // most keys have none at all
    }
    const auto parts = key_parts(key);
    if (std::find(parts.begin(), parts.end(), wrapper.part) != parts.end()) {
      found.push_back(&wrapper);
    }
  }
  return found;
}

// Where the parts that name modules end: at the tensor's name, or the leaf.
std::size_t modules_end(
    const std::string& key,
    const std::vector<std::string>& parts) {
  const auto at = tensor_name_at(key);
  if (at == std::string::npos) {
    return parts.size() - 1;
  }
  return static_cast<std::size_t>(std::count(
      key.begin(), key.begin() + static_cast<std::ptrdiff_t>(at), '.'));
}

// What PEFT's own wrappers put behind a layer's path.
bool is_peft_part(const std::string& part) {
  return part == "base_layer" || part == "original_module" ||
      part == "modules_to_save" || part == "token_adapter";
}

class KeyReading {
 public:
  KeyReading(const std::string& key, const std::set<std::string>& modules)
      : parts_(key_parts(key)), modules_(modules) {
    const std::size_t end = modules_end(key, parts_);
    std::size_t i = prefix(end);
    for (; i < end; ++i) {
      const std::string next = join_path(path_, parts_[i]);
      const Wrapper* wrapper = wrapper_called(parts_[i]);
      if (wrapper && !modules_.contains(next)) {
        taken_out_.insert(wrapper);
      } else {
        path_ = next;
        kept_.push_back(parts_[i]);
      }
    }
    kept_.insert(
        kept_.end(),
        parts_.begin() + static_cast<std::ptrdiff_t>(i),
        parts_.end());
  }

  /// The key without wrappers, or "" when it is no key of this model then.
  std::string key() const {
    if (taken_out_.empty() || !is_of_model()) {
      return "";
    }
    std::string key;
    for (const std::string& part : kept_) {
      key = join_path(key, part);
    }
    return key;
  }

  const std::set<const Wrapper*>& taken_out() const { return taken_out_; }

 private:
  // Takes "base_model.model" with what is wrapped around all of it.
  std::size_t prefix(std::size_t end) {
    std::size_t i = 0;
    while (i < end && wrapper_called(parts_[i])) {
      ++i;
    }
    if (i + 1 < end && parts_[i] == "base_model" && parts_[i + 1] == "model") {
      for (std::size_t k = 0; k < i; ++k) {
        taken_out_.insert(wrapper_called(parts_[k]));
      }
      kept_ = {"base_model", "model"};
      return i + 2;
    }
    return 0;
  }

  bool is_of_model() const {
    std::string path;
    for (const std::string& part : key_parts(path_)) {
      if (is_peft_part(part)) {
        break;
      }
      path = join_path(path, part);
    }
    return modules_.contains(path);
  }

  std::vector<std::string> parts_;
  const std::set<std::string>& modules_;
  std::vector<std::string> kept_;
  std::set<const Wrapper*> taken_out_;
  std::string path_;
};

void add_path(std::set<std::string>& paths, const std::string& path) {
  for (auto dot = path.find('.'); dot != std::string::npos;
       dot = path.find('.', dot + 1)) {
    paths.insert(path.substr(0, dot));
  }
  if (!path.empty()) {
    paths.insert(path);
  }
}

std::string advice(const std::set<const Wrapper*>& found) {
  std::string text;
  for (const Wrapper* wrapper : found) {
    text += concat(
        text.empty() ? "" : " and ", "'", wrapper->part, "' of ", wrapper->of);
  }
  return text;
}

}  // namespace

std::set<std::string> module_paths(const std::vector<HostedLayer>& layers) {
  std::set<std::string> paths;
  for (const HostedLayer& layer : layers) {
    add_path(paths, layer.path);
    for (const std::string& other : layer.others) {
      add_path(paths, other);
    }
    for (const HostedTensor& tensor : layer.tensors) {
      if (!tensor.holder.empty()) {
        add_path(paths, join_path(layer.path, tensor.holder));
      }
    }
  }
  return paths;
}

StateDict without_wrapper_names(
    const StateDict& weights,
    const std::function<std::set<std::string>()>& paths,
    bool quiet) {
  std::map<std::string, std::string> renamed;  // old, new
  std::map<std::string, int> claims;
  std::set<const Wrapper*> taken_out;
  std::set<std::string> modules;
  for (const auto& item : weights) {
    if (wrappers_in(item.key()).empty()) {
      continue;
    }
    if (modules.empty()) {
      modules = paths();
    }
    const KeyReading reading(item.key(), modules);
    if (const std::string key = reading.key(); !key.empty()) {
      renamed.emplace(item.key(), key);
      ++claims[without_prefix(key)];
      taken_out.insert(reading.taken_out().begin(), reading.taken_out().end());
    }
  }
  if (renamed.empty()) {
    return weights;
  }
  for (const auto& item : weights) {
    if (!renamed.contains(item.key())) {
      ++claims[without_prefix(item.key())];
    }
  }
  StateDict read;
  std::vector<std::string> taken;
  for (const auto& item : weights) {
    const auto found = renamed.find(item.key());
    if (found == renamed.end() || claims[without_prefix(found->second)] > 1) {
      read.insert(item.key(), item.value());
    } else {
      read.insert(found->second, item.value());
      taken.push_back(item.key());
    }
  }
  if (!quiet && !taken.empty()) {
    warn(concat(
        taken.size(),
        " keys carry ",
        advice(taken_out),
        ", which wraps modules in Python and is no module here; they are read "
        "as if it were not there: ",
        list_names(taken, 2)));
  }
  return read;
}

void explain_wrappers(
    const std::vector<std::string>& keys,
    Mistakes& mistakes) {
  std::set<const Wrapper*> found;
  std::vector<std::string> wrapped;
  for (const std::string& key : keys) {
    const auto here = wrappers_in(key);
    if (!here.empty()) {
      wrapped.push_back(key);
      found.insert(here.begin(), here.end());
    }
  }
  if (!found.empty()) {
    mistakes.add(concat(
        list_names(wrapped, 2),
        " carry ",
        advice(found),
        ", which wraps modules in Python; strip it from the keys, or save the "
        "module inside (what is left of them is no key of this adapter, or "
        "another key says the same)"));
  }
}

}  // namespace peft::detail
