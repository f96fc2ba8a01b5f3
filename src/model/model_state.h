// SPDX-License-Identifier: Apache-2.0
// Everything the library knows of one adapted model. Owned by the adapted
// tensors in the model's layers and by Adapters handles, so it goes with the
// model. It holds layers weakly and never the adapted tensors themselves.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hosting/adapted_weight.h"
#include "hosting/adapter_modules.h"
#include "hosting/host.h"
#include "hosting/owner.h"
#include "methods/method_table.h"
#include "peft/adapter_config.h"
#include "peft/adapters.h"
#include "peft/match_report.h"

namespace peft::detail {

/// What the config chose a weight for.
enum class Role { adapter, saved_copy, token_rows };

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
  Seat seat() const { return {layer.lock(), holders}; }
  WeightName name() const { return {pattern_path, file_prefix}; }
};

/// A bias of the model itself that an adapter trains (bias = "all").
struct TrainedBias {
  std::string file_key;
  at::Tensor bias;
  /// Its values before, put back when the adapter goes.
  at::Tensor original;
};

struct AdapterRecord {
  AdapterId id = 0;
  std::string name;
  std::unique_ptr<AdapterConfig> config;
  std::vector<Target> targets;
  std::vector<TrainedBias> biases;
  MatchReport report;
  /// What training needs between its steps; none for most methods. Reads and
  /// writes `config`, so it goes first.
  std::unique_ptr<Schedule> schedule;
};

/// A weight that has, or had, adapters, and the place it is read from.
struct Site {
  std::shared_ptr<TensorPlace> place;
  std::shared_ptr<AdaptedWeight> weight;
};

struct ModelState : Owner {
  const void* model = nullptr;  // identity only
  std::string model_type;
  std::shared_ptr<Activation> activation =
      std::make_shared<Activation>(ActiveSet{});
  std::vector<std::unique_ptr<AdapterRecord>> adapters;
  std::vector<Site> sites;
  /// The model's own parameters with their requires_grad before injection.
  std::vector<std::pair<at::Tensor, bool>> own_parameters;
  AdapterId next_id = 0;

  /// nullptr when there is none.
  AdapterRecord* find(const std::string& name) const;
  /// Throws Error (state) with the names there are.
  AdapterRecord& get(const std::string& name, const char* asking) const;
  std::vector<std::string> names() const;
  /// Adapters of one method keep their order, methods get that in which they
  /// came into the model: as PEFT's layers stand around one another.
  void sort_by_method(std::vector<AdapterId>& ids) const;
};

/// The state of `host`'s model found through its adapted tensors; nullptr when
/// it has none. Throws Error (state) when the adapters below belong to another
/// model (they were injected through a submodule or a larger model).
std::shared_ptr<ModelState> find_state(const Host& host);
/// As above; throws Error (state) when there is none.
std::shared_ptr<ModelState> get_state(const Host& host);

}  // namespace peft::detail
