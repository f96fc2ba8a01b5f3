// SPDX-License-Identifier: Apache-2.0
// Everything the library knows of one adapted model. Owned by the adapted
// tensors in the model's layers and by Adapters handles, so it goes with the
// model. It holds layers weakly and never the adapted tensors themselves.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "hosting/adapted_weight.h"
#include "hosting/adapter_modules.h"
#include "hosting/host.h"
#include "hosting/merged_weights.h"
#include "hosting/owner.h"
#include "methods/method_table.h"
#include "peft/adapter_config.h"
#include "peft/adapters.h"
#include "peft/match_report.h"
#include "peft/state_dict.h"

namespace peft::detail {

/// What the config chose a weight for.
enum class Role {
  adapter,
  saved_copy,    // modules_to_save
  token_rows,    // trainable_token_indices
  trained_bias,  // bias = "all" or "lora_only"
  own_base,      // what its file holds of the base: never trained
};

/// One adapter on one weight.
struct Target {
  std::string layer_path;   // "encoder.0.query"
  std::string layer_type;   // "Linear"
  std::string tensor_name;  // "weight"
  std::string file_prefix;  // what its keys start with
  /// What rank_pattern and alpha_pattern are asked about: the layer's path, or
  /// that of the MultiheadAttention that brought it along (as in PEFT).
  std::string pattern_path;
  Role role = Role::adapter;
  /// Set: the weight is the same as that of this one of the adapter's targets,
  /// whose tensors it uses.
  std::optional<std::size_t> tied_to;
  /// Such a weight's tensors stand in files a second time.
  bool is_written = false;
  std::weak_ptr<torch::nn::Module> layer;
  std::vector<std::string> holders;
  at::Tensor base;
  /// The adapter's own copy of the base, where it has one.
  at::Tensor own_base = {};
  std::shared_ptr<AdaptedWeight> weight;
  std::shared_ptr<Attachment> attachment;
  std::vector<ParameterSpec> specs;
  WeightLayout layout;  // as its method reads it
  /// The layer's bias, where the method changes it with the weight. The
  /// attachment shares its tensors with the weight's.
  std::shared_ptr<AdaptedWeight> bias;
  std::shared_ptr<Attachment> bias_attachment;

  /// Carries tensors of the config's method.
  bool of_method() const { return role == Role::adapter && !tied_to; }
  /// Stands for the tensor, instead of changing it.
  bool is_copy() const {
    return role != Role::adapter && role != Role::token_rows;
  }
  /// What its method stands on.
  const at::Tensor& ground() const {
    return own_base.defined() ? own_base : base;
  }
  Seat seat() const { return {layer.lock(), holders}; }
  WeightName name() const { return {pattern_path, file_prefix}; }
};

/// Where the values of an attached adapter come from, again and again.
struct WeightSource {
  std::function<StateDict()> read;
  /// What its targets have without values.
  std::vector<std::shared_ptr<Attachment>> empty = {};
  std::vector<std::shared_ptr<Attachment>> empty_biases = {};
  std::int64_t bytes = 0;  // resident now
  /// By the model's clock.
  std::shared_ptr<std::atomic<std::uint64_t>> last_use =
      std::make_shared<std::atomic<std::uint64_t>>(0);
};

struct AdapterRecord {
  std::string name;
  /// What forwards see of it: the attachments of its targets.
  std::shared_ptr<const AttachedAdapter> attached;
  std::unique_ptr<AdapterConfig> config;
  std::vector<Target> targets;
  /// Tensors of the model's tables and heads by the keys that files may hold
  /// them under, beside those of the adapter.
  StateDict base_keys = StateDict();
  bool own_base_weights = false;  // see LoadOptions
  MatchReport report;
  /// What training needs between its steps; none for most methods. Reads and
  /// writes `config`, so it goes first.
  std::unique_ptr<Schedule> schedule;
  /// Set: attached. Its modules are not in the tree.
  std::optional<WeightSource> source = {};
  /// Its tensors on half precision are made in float32.
  bool autocast_dtype = true;
  /// It was injected to be trained, or told to since.
  bool trains = false;
};

/// A weight that has, or had, adapters, and the place it is read from.
struct Site {
  std::shared_ptr<TensorPlace> place;
  std::shared_ptr<AdaptedWeight> weight;
  std::string path = "";                      // of its layer
  std::string name = "";                      // of the tensor in the model
  std::vector<std::string> shared_with = {};  // layers that read its tensor too
};

/// Adapters by name that can run at once, for threads that choose one while
/// another thread is in an operation.
class Roster {
 public:
  /// nullptr for one that is not there, or has to be made ready first: see
  /// find_adapters.
  std::shared_ptr<const AttachedAdapter> find(const std::string& name) const;
  /// `is_ready`, asked whenever it is found; empty: always.
  void put(
      const std::string& name,
      std::shared_ptr<const AttachedAdapter> adapter,
      std::function<bool()> is_ready);
  void erase(const std::string& name);
  void clear();

 private:
  struct Entry {
    std::shared_ptr<const AttachedAdapter> adapter;
    std::function<bool()> is_ready;
  };

  mutable std::mutex mutex_;
  std::unordered_map<std::string, Entry> all_;
};

struct ModelState : Owner {
  const void* model = nullptr;  // identity only
  std::string model_type;
  std::shared_ptr<Activation> activation =
      std::make_shared<Activation>(Choice{});
  Roster roster;
  std::vector<std::unique_ptr<AdapterRecord>> adapters;
  std::vector<Site> sites;
  /// The model's own parameters with their requires_grad before injection.
  std::vector<std::pair<at::Tensor, bool>> own_parameters;
  AdapterId next_id = 0;
  WeightId next_weight = 0;
  /// Counts uses of attached adapters.
  mutable std::atomic<std::uint64_t> clock = 0;
  std::optional<std::int64_t> memory_budget;
  /// By peft_type, the order of its adapters among those of other methods: as
  /// PEFT's layers stand around one another.
  std::map<std::string, std::size_t> orders;

  /// Operations take turns; forwards do not wait for them.
  [[nodiscard]] std::unique_lock<std::recursive_mutex> lock() const {
    return std::unique_lock(operations);
  }
  /// nullptr when there is none.
  AdapterRecord* find(const std::string& name) const;
  AdapterRecord* find(AdapterId id) const;
  /// Throws Error (state) with the names there are.
  AdapterRecord& get(const std::string& name, const char* asking) const;
  /// The config that `record` has now, in a copy that never changes and lives
  /// as long as this: other threads read it.
  const AdapterConfig& published_config(const AdapterRecord& record);
  std::vector<std::string> names() const;
  std::vector<std::string> names(const AttachedAdapters& some) const;
  bool is_merged(const AdapterRecord& record) const;
  std::vector<std::shared_ptr<const Attachment>> attachments_on(
      WeightId weight) const override;
  void stand_in_gone(WeightId weight) noexcept override;

 private:
  mutable std::recursive_mutex operations;
  /// By what they say, so that there is one of each, however often asked for.
  std::map<std::string, std::unique_ptr<const AdapterConfig>> published_;
};

/// A turn among the operations on a model, which may be nullptr.
inline std::unique_lock<std::recursive_mutex> take_turn(
    const ModelState* state) {
  return state ? state->lock() : std::unique_lock<std::recursive_mutex>();
}

/// Whether another tensor stands in the place of a weight's: the adapters on it
/// do nothing.
bool is_set_anew(const Site& site);
/// The same for the weight of a target.
bool is_set_anew(const ModelState& state, const Target& target);
/// What to say of such a layer.
std::string set_anew_text(const std::string& tensor);

/// The state of `host`'s model, found through its adapted tensors and its
/// adapters' modules; nullptr when it has none.
std::shared_ptr<ModelState> find_state(const Host& host);
/// As above; throws Error (state) when there is none.
std::shared_ptr<ModelState> get_state(const Host& host);

}  // namespace peft::detail
