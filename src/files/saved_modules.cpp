// SPDX-License-Identifier: Apache-2.0
#include "files/saved_modules.h"

#include <algorithm>

#include "base/text.h"
#include "base/warning.h"
#include "model/adapter_tensors.h"
#include "model/file_keys.h"

namespace peft::detail {
namespace {

std::vector<std::string> paths_of(const Host& host) {
  std::vector<std::string> paths;
  for (const HostedLayer& layer : host.layers()) {
    if (!layer.path.empty()) {
      paths.push_back(layer.path);
      paths.insert(paths.end(), layer.others.begin(), layer.others.end());
    }
  }
  return paths;
}

// PEFT reads `entry` as the module at `path`, this library does not.
bool is_by_letters_only(const std::string& path, const std::string& entry) {
  return path.ends_with(entry) && !has_path_suffix(path, entry);
}

// The module is in the file with a tensor of its own, not with an adapter's.
bool is_saved_in(const StateDict& weights, const std::string& path) {
  for (const auto& item : weights) {
    const std::string key = without_prefix(item.key());
    if (key.starts_with(path + ".") &&
        tensor_name_at(key) == std::string::npos) {
      return true;
    }
  }
  return false;
}

}  // namespace

void add_modules_that_peft_saved(
    AdapterConfig& config,
    const Host& host,
    const StateDict& weights) {
  const std::vector<std::string> entries = config.modules_to_save;
  if (entries.empty()) {
    return;
  }
  for (const std::string& path : paths_of(host)) {
    const auto ends_path = [&](const std::string& entry) {
      return is_by_letters_only(path, entry);
    };
    if (std::any_of(entries.begin(), entries.end(), ends_path) &&
        is_saved_in(weights, path)) {
      config.modules_to_save.push_back(path);
    }
  }
}

void spell_out_saved_modules(AdapterConfig& config, const Host& host) {
  if (config.modules_to_save.empty()) {
    return;
  }
  const std::vector<std::string> paths = paths_of(host);
  std::vector<std::string> spelled;
  for (const std::string& entry : config.modules_to_save) {
    std::vector<std::string> meant;
    bool more = false;
    for (const std::string& path : paths) {
      if (has_path_suffix(path, entry)) {
        meant.push_back(path);
      }
      more |= is_by_letters_only(path, entry);
    }
    if (!more || meant.empty()) {
      meant = {entry};
    }
    spelled.insert(spelled.end(), meant.begin(), meant.end());
  }
  for (const std::string& entry : spelled) {
    for (const std::string& path : paths) {
      if (is_by_letters_only(path, entry)) {
        warn(concat(
            "modules_to_save: Python PEFT will take '",
            path,
            "' for '",
            entry,
            "' and miss it in the file; rename one of the two"));
      }
    }
  }
  config.modules_to_save = std::move(spelled);
}

}  // namespace peft::detail
