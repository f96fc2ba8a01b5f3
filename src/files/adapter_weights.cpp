// SPDX-License-Identifier: Apache-2.0
// load_peft_weights: the tensors of an adapter folder, in whichever of the
// files that libraries write they are.
#include <algorithm>
#include <map>
#include <system_error>

#include "base/atomic_file.h"
#include "base/mistakes.h"
#include "base/open_file.h"
#include "base/text.h"
#include "config/json_text.h"
#include "files/torch_file.h"
#include "peft/adapter_folder.h"
#include "peft/safetensors.h"

namespace peft {
namespace {

namespace fs = std::filesystem;
using detail::cannot_read;
using detail::concat;

StateDict load_one(const fs::path& path) {
  return path.extension() == ".safetensors" ? load_safetensors(path)
                                            : detail::load_torch_file(path);
}

// "adapter_model-00001-of-00002.safetensors": a name, and not a way out of the
// folder.
bool is_name_of_shard(const std::string& name, const std::string& ending) {
  return name.find_first_of("/\\") == std::string::npos &&
      name.find('\0') == std::string::npos && name.size() > ending.size() &&
      name.ends_with(ending);
}

// An index of shards: {"weight_map": {key: name of the file that has it}}.
class ShardIndex {
 public:
  ShardIndex(const fs::path& path, const std::string& ending)
      : path_(path), mistakes_(ErrorKind::file, cannot_read(path)) {
    const auto json = detail::parse_json(
        detail::read_text_file(path), path.string(), ErrorKind::file);
    const auto map = json.find("weight_map");
    if (map == json.end() || !map->is_object()) {
      mistakes_.add(
          "it has no 'weight_map', which says which file has which tensor");
      mistakes_.raise_if_any();
    }
    for (const auto& [key, file] : map->items()) {
      if (!file.is_string()) {
        mistakes_.add(
            concat("weight_map['", key, "'] is ", detail::describe_json(file)));
        continue;
      }
      const auto name = file.get<std::string>();
      if (is_name_of_shard(name, ending)) {
        keys_[name].push_back(key);
      } else {
        mistakes_.add(concat(
            "weight_map puts '",
            key,
            "' into '",
            name,
            "', which is no ",
            ending,
            " file of this folder"));
      }
    }
    mistakes_.raise_if_any();
  }

  StateDict read() {
    StateDict all;
    std::map<std::string, std::string> place;  // by key
    for (const auto& [name, keys] : keys_) {
      const fs::path path = path_.parent_path() / name;
      std::error_code ignored;
      if (!fs::exists(path, ignored)) {
        mistakes_.add(concat(
            "'", name, "' is missing, which has ", detail::list_names(keys)));
        continue;
      }
      const StateDict shard = load_one(path);
      for (const auto& item : shard) {
        const auto [first, is_new] = place.emplace(item.key(), name);
        if (is_new) {
          all.insert(item.key(), item.value());
        } else {
          mistakes_.add(concat(
              "'",
              item.key(),
              "' is in '",
              first->second,
              "' and '",
              name,
              "'"));
        }
      }
      check_keys(name, keys, shard);
    }
    mistakes_.raise_if_any();
    return all;
  }

 private:
  // Both must say the same: what only one knows of is lost, or another's.
  void check_keys(
      const std::string& name,
      const std::vector<std::string>& keys,
      const StateDict& shard) {
    std::vector<std::string> missing;
    for (const std::string& key : keys) {
      if (!shard.contains(key)) {
        missing.push_back(key);
      }
    }
    std::vector<std::string> surplus = shard.keys();
    std::erase_if(surplus, [&, sorted = sorted(keys)](const std::string& key) {
      return std::binary_search(sorted.begin(), sorted.end(), key);
    });
    if (!missing.empty()) {
      mistakes_.add(
          concat("'", name, "' does not have ", detail::list_names(missing)));
    }
    if (!surplus.empty()) {
      mistakes_.add(concat(
          "'",
          name,
          "' has ",
          detail::list_names(surplus),
          ", which weight_map does not put there"));
    }
  }

  static std::vector<std::string> sorted(std::vector<std::string> keys) {
    std::sort(keys.begin(), keys.end());
    return keys;
  }

  fs::path path_;
  detail::Mistakes mistakes_;
  std::map<std::string, std::vector<std::string>> keys_;  // by shard
};

}  // namespace

StateDict load_peft_weights(const fs::path& directory) {
  constexpr const char* index = ".index.json";
  std::error_code ignored;
  for (const std::string ending : {".safetensors", ".bin"}) {
    const fs::path path = directory / ("adapter_model" + ending);
    if (fs::exists(path, ignored)) {
      return load_one(path);
    }
    const fs::path shards = path.string() + index;
    if (fs::exists(shards, ignored)) {
      return ShardIndex(shards, ending).read();
    }
  }
  return load_safetensors(directory / "adapter_model.safetensors");
}

}  // namespace peft
