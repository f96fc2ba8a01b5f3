// SPDX-License-Identifier: Apache-2.0
#include "model/file_keys.h"

#include <algorithm>
#include <map>

#include "base/text.h"
#include "base/warning.h"
#include "methods/tensor_names.h"
#include "model/adapter_tensors.h"

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

std::vector<std::string> parts_of(std::string_view key) {
  std::vector<std::string> parts;
  while (true) {
    const auto dot = key.find('.');
    parts.emplace_back(key.substr(0, dot));
    if (dot == std::string_view::npos) {
      return parts;
    }
    key.remove_prefix(dot + 1);
  }
}

std::vector<const Wrapper*> wrappers_in(const std::string& key) {
  std::vector<const Wrapper*> found;
  for (const Wrapper& wrapper : wrappers) {
    const auto at = key.find(wrapper.part);  // most keys have none at all
    if (at != std::string::npos) {
      const auto parts = parts_of(key);
      if (std::find(parts.begin(), parts.end(), wrapper.part) != parts.end()) {
        found.push_back(&wrapper);
      }
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
      : parts_(parts_of(key)), modules_(modules) {
    const std::size_t end = modules_end(key, parts_);
    std::size_t i = prefix(end);
    for (; i < end; ++i) {
      const std::string next = join_path(path_, parts_[i]);
      if (!wrapper_called(parts_[i]) || modules_.contains(next)) {
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
    if (kept_.size() == parts_.size() || !is_of_model()) {
      return "";
    }
    std::string key;
    for (const std::string& part : kept_) {
      key = join_path(key, part);
    }
    return key;
  }

 private:
  // Takes "base_model.model" with what is wrapped around all of it.
  std::size_t prefix(std::size_t end) {
    std::size_t i = 0;
    while (i < end && wrapper_called(parts_[i])) {
      ++i;
    }
    if (i + 1 < end && parts_[i] == "base_model" && parts_[i + 1] == "model") {
      kept_ = {"base_model", "model"};
      return i + 2;
    }
    return 0;
  }

  bool is_of_model() const {
    std::string path;
    for (const std::string& part : parts_of(path_)) {
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

std::size_t tensor_name_at(std::string_view key, std::string_view prefix) {
  auto end = std::string_view::npos;
  for (auto dot = key.rfind('.'); dot != std::string_view::npos && dot > 0;
       end = dot, dot = key.rfind('.', dot - 1)) {
    const auto length = end == std::string_view::npos ? end : end - dot - 1;
    if (is_tensor_name(key.substr(dot + 1, length), prefix)) {
      return dot + 1;
    }
  }
  return std::string::npos;
}

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

std::set<std::string> module_paths(const AdapterRecord& record) {
  std::set<std::string> paths;
  for (const Target& target : record.targets) {
    add_path(paths, target.layer_path);
    add_path(paths, target.file_prefix);
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
    const auto found = wrappers_in(item.key());
    if (found.empty()) {
      continue;
    }
    if (modules.empty()) {
      modules = paths();
    }
    const std::string key = KeyReading(item.key(), modules).key();
    if (!key.empty()) {
      renamed.emplace(item.key(), key);
      ++claims[without_prefix(key)];
      taken_out.insert(found.begin(), found.end());
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

void check_spelling(const std::vector<std::string>& keys, Mistakes& mistakes) {
  std::map<std::string, std::vector<std::string>> keys_by_name;
  std::map<std::string, std::string> meant;
  for (const std::string& key : keys) {
    if (tensor_name_at(key) != std::string::npos) {
      continue;
    }
    const auto parts = parts_of(key);
    // A layer stands before it; after it, at most an adapter and "weight".
    for (std::size_t i = 1; i < parts.size(); ++i) {
      const std::string name = misspelt_tensor_name(parts[i]);
      if (!name.empty() && parts.size() - i <= 3) {
        keys_by_name[parts[i]].push_back(key);
        meant.emplace(parts[i], name);
        break;
      }
    }
  }
  for (const auto& [part, some] : keys_by_name) {
    mistakes.add(concat(
        list_names(some, 3),
        " say '",
        part,
        "' where PEFT says '",
        meant[part],
        "'; rename them (what other libraries call '",
        part,
        "' may also be stored transposed)"));
  }
}

void explain_unexpected(
    const std::vector<std::string>& keys,
    Mistakes& mistakes) {
  check_spelling(keys, mistakes);
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

void explain_empty(const StateDict& weights, Mistakes& mistakes) {
  std::vector<std::string> empty;
  for (const auto& item : weights) {
    if (item.value().dim() == 1 && item.value().numel() == 0) {
      empty.push_back(item.key());
    }
  }
  if (!empty.empty()) {
    mistakes.add(concat(
        empty.size(),
        " tensors are empty, of shape [0], as DeepSpeed ZeRO-3 leaves what is "
        "not gathered when it is saved: ",
        list_names(empty, 2),
        "; save again with stage3_gather_16bit_weights_on_model_save (or "
        "Accelerate's get_state_dict), or make the file with zero_to_fp32.py"));
  }
}

}  // namespace peft::detail
