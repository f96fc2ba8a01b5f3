// SPDX-License-Identifier: Apache-2.0
// The explicit list of methods. A new method adds one line to the .cpp.
#pragma once

#include <memory>
#include <string>

#include "methods/method.h"
#include "methods/schedule.h"
#include "peft/adapter_config.h"

namespace peft::detail {

/// What a config and a file call one weight.
struct WeightName {
  /// What pattern fields are asked about: the module's path.
  std::string pattern_path;
  /// What its keys in files start with.
  std::string file_prefix;
};

/// Shapes of one weight's stored tensors, by file name: "lora_A.weight".
using StoredShapes =
    std::vector<std::pair<std::string, std::vector<std::int64_t>>>;

/// What there is of an adapter on one layer already.
struct StoredLayer {
  std::string path;
  StoredShapes shapes;
  std::int64_t count = 1;       // matrices in a stack
  std::optional<double> alpha;  // where it is known
};

/// What a pass over data found for one layer; nullptr: nothing.
struct LayerData {
  WeightName name;
  const at::Tensor* data;
};

struct MethodEntry {
  std::string peft_type;
  std::string key_prefix;  // "lora_": what its tensors' names start with
  /// The method as `config` sets it for one weight (patterns apply).
  std::unique_ptr<const Method> (
      *make)(const AdapterConfig& config, const WeightName& name);
  /// Changes `config` so that these layers get the shapes that they have.
  void (*adopt)(AdapterConfig& config, const std::vector<StoredLayer>& layers) =
      nullptr;
  /// Changes `config` so that adapters start without any effect; the tensors
  /// they store stay of the same shapes.
  void (*start_without_effect)(AdapterConfig& config) = nullptr;
  /// The pass over data that the config starts from ("preprocess_corda"), or
  /// nullptr. May be null.
  const char* (*data_pass)(const AdapterConfig& config) = nullptr;
  /// Changes `config` so that ranks are those of the data. May be null.
  void (*adopt_data)(
      AdapterConfig& config,
      const std::vector<LayerData>& layers) = nullptr;
  /// Whether files can only hold it in its plain form (see below): what it
  /// took out of the base cannot be worked out again. May be null.
  bool (*needs_plain_files)(const AdapterConfig& config) = nullptr;
  /// Changes `config` so that the weight gets the shapes that a file holds,
  /// where they differ (a rank pattern whose order JSON lost). May be null.
  void (*fit)(
      AdapterConfig& config,
      const WeightName& name,
      const WeightLayout& layout,
      const StoredShapes& shapes) = nullptr;
  /// `config` as it is to be written: with the same meaning for the adapted
  /// modules at `paths` after JSON has sorted the keys of its patterns. May be
  /// null.
  void (*settle)(AdapterConfig& config, const std::vector<std::string>& paths) =
      nullptr;
  /// A weight's parameters as files hold them. Null: as they are.
  Tensors (*written)(
      const AdapterConfig& config,
      const WeightName& name,
      const Tensors& parameters) = nullptr;
  /// The same as plain LoRA: changes `config`, and gives a weight's parameters
  /// under it. Null: the method has no such form.
  void (*make_plain)(AdapterConfig& config) = nullptr;
  Tensors (*plain)(
      const AdapterConfig& config,
      const WeightName& name,
      const Tensors& parameters) = nullptr;
  /// Two factors of a table as those of the matrix that maps features to rows
  /// (the tied head): what files call them there, and views of the table's.
  /// Null: the method has no such form.
  NamedTensors (*as_head)(const Tensors& factors) = nullptr;
  /// Whether Python PEFT has this adapter on a layer of this type. Types that
  /// PEFT cannot know are left to the user.
  bool (*loads_in_peft)(
      const AdapterConfig& config,
      const std::string& layer_type) = nullptr;
  /// What happens between steps of training. Null: nothing. Such a method can
  /// have one trainable adapter in a model.
  std::unique_ptr<Schedule> (*make_schedule)(
      AdapterConfig& config,
      std::vector<ScheduledWeight> weights) = nullptr;
};

/// Throws Error (unsupported) when config's peft_type is not in the list.
const MethodEntry& method_entry(const AdapterConfig& config);

}  // namespace peft::detail
