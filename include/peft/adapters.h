// SPDX-License-Identifier: Apache-2.0
// Injecting adapters into a model and operating them.
//
// Forward may run in any number of threads, also while another thread switches,
// loads, swaps, merges or deletes adapters: docs/threads.md says what each
// function promises, peft/scopes.h has what one thread chooses for itself.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

#include "peft/adapter_config.h"
#include "peft/adapter_status.h"
#include "peft/audit.h"
#include "peft/export.h"
#include "peft/match_report.h"
#include "peft/state_dict.h"

namespace peft {

namespace detail {
struct ModelState;

/// Points to the state of a model's adapters; using an empty one is an Error
/// (state).
class PEFT_API StatePointer {
 public:
  StatePointer() = default;
  explicit StatePointer(std::shared_ptr<ModelState> state)
      : state_(std::move(state)) {}

  bool is_empty() const { return state_ == nullptr; }
  const std::shared_ptr<ModelState>& shared() const;
  ModelState* operator->() const { return shared().get(); }
  ModelState& operator*() const { return *shared(); }

 private:
  std::shared_ptr<ModelState> state_;
};
}  // namespace detail

/// A light handle on the adapters of one model. Copies share one state, which
/// lives as long as a handle or an adapted layer does.
///
/// One that was made without a model (a member that is filled later) is empty:
/// whatever it is asked for, or given to, throws Error (state).
class PEFT_API Adapters {
 public:
  Adapters() = default;
  /// False: empty.
  explicit operator bool() const { return !state_.is_empty(); }

  /// What an optimiser is to train: every tensor of every adapter that
  /// requires grad, copies of modules_to_save and trained biases with them,
  /// each once. The same tensor objects for the adapter's whole life.
  std::vector<at::Tensor> trainable_parameters() const;
  /// All tensors of one adapter, trainable or not.
  std::vector<at::Tensor> parameters(const std::string& adapter_name) const;

  /// Adapter names in the order of injection.
  std::vector<std::string> names() const;
  /// The names that are active, also while disabled.
  std::vector<std::string> active_adapters() const;
  bool enabled() const;
  /// The config that an adapter has now: what it was injected with, or last
  /// swapped to. It never changes and lives as long as the model's adapters'
  /// state, whatever becomes of the adapter: other threads may delete or swap
  /// it meanwhile.
  const AdapterConfig& config(
      const std::string& adapter_name = "default") const;
  /// What injection matched, and why not the rest.
  MatchReport report(const std::string& adapter_name = "default") const;

  /// Makes exactly these adapters active: one store, whatever the size of the
  /// model. requires_grad stays as it is. Unknown names: Error (state).
  /// Two of them with a copy of the same tensor (modules_to_save, a trained
  /// bias, an embedding in the file): Error (state).
  void set_adapter(const std::string& adapter_name);
  void set_adapter(const std::vector<std::string>& adapter_names);
  void set_adapter(std::initializer_list<std::string> adapter_names);
  /// False: forward is the base model's.
  void enable_adapters(bool enabled);
  /// Computes the weights that the named adapters make (no names: the active
  /// ones), in float32 or better and rounded once, and lets forward read them
  /// in place of base and adapters, whatever is active. The base weights stay
  /// untouched beside them. Adapters that are merged already stay so, beside
  /// the new ones. While disabled, merged weights wait. Merged weights follow
  /// changes of the base, not those of the adapters' tensors or scales.
  /// Throws Error (state) naming every weight that cannot be merged: values
  /// that would be NaN or infinite, adapters that act on some positions only;
  /// nothing has changed then.
  void merge_adapter(const std::vector<std::string>& adapter_names = {});
  /// Back to base and adapters, to the bit. set_adapter and injection do so
  /// too, with a warning.
  void unmerge_adapter();
  std::vector<std::string> merged_adapters() const;
  /// Makes the merged weights the layers' own (no names: what is merged, or
  /// else the active adapters) and takes all adapters out. The same tensor
  /// objects, with new data; `in_place`: with new values in the same memory, so
  /// that no second copy of the model is held. Tensors that another layer reads
  /// too: Error (state).
  void merge_and_unload(
      const std::vector<std::string>& adapter_names = {},
      bool in_place = false);
  /// Takes an adapter out. If it was active, the first of the other names in
  /// alphabetical order becomes active, with a warning. Layers that no adapter
  /// is left on keep their place until unload(). Deleting the last adapter is
  /// unload(), deleting a merged one an Error (state).
  void delete_adapter(const std::string& adapter_name);
  /// Takes all adapters out: the module is what it was, the same tensors, the
  /// same requires_grad.
  void unload();
  /// requires_grad for all tensors of an adapter.
  void set_requires_grad(const std::string& adapter_name, bool requires_grad);

  /// The factor of an adapter's contribution, as PEFT's set_scale: scaling
  /// becomes scale * lora_alpha / r in every layer.
  void set_scale(const std::string& adapter_name, double scale);
  /// Half-precision tensors of an adapter in float32, in the same tensor
  /// objects: what injection does by itself (see InjectOptions), for an adapter
  /// that was injected without it, or cast with the model by Module::to.
  /// (`autocast_adapter_dtype` = false does nothing.)
  void cast_adapter_dtype(
      const std::string& adapter_name = "default",
      bool autocast_adapter_dtype = true);

  /// Multiplies the scaling of the active adapters.
  void scale_layer(double scale);
  /// Divides it again; without an argument: back to lora_alpha / r.
  void unscale_layer(std::optional<double> scale = std::nullopt);
  /// The scaling in use, by layer path.
  std::map<std::string, double> scaling(const std::string& adapter_name) const;

  /// AdaLoRA: moves rank to where it counts, in every step of training after
  /// optimizer.step() and before zero_grad(). Steps count from 0 to
  /// total_step. Throws Error (state) without gradients, or for an adapter of
  /// another method.
  void update_and_allocate(
      std::int64_t step,
      const std::string& adapter_name = "default");
  /// AdaLoRA: orth_reg_weight times the mean of ||A A' - 1|| and ||B' B - 1||,
  /// to be added to the loss in every step. Nothing adds it by itself.
  at::Tensor orthogonal_regularization(
      const std::string& adapter_name = "default") const;
  /// AdaLoRA: all that training needs to go on later, values and importances
  /// of every rank (files hold only the ranks that are left), and taking it
  /// back into an adapter that was injected with the same config.
  StateDict training_state(const std::string& adapter_name = "default") const;
  void load_training_state(
      const StateDict& state,
      const std::string& adapter_name = "default");

  /// After a forward and a backward: layers that no forward has run with their
  /// adapter, tensors that require grad and have none, and tensors that do not
  /// require it though their adapter trains, each with the likely reason.
  /// Adapters that are not active are listed too.
  AuditReport audit() const;

  /// Per adapted layer and for the whole model, as PEFT reports them.
  std::vector<LayerStatus> layer_status() const;
  ModelStatus status() const;

  // For the library's own rooms.
  explicit Adapters(std::shared_ptr<detail::ModelState> state);
  const std::shared_ptr<detail::ModelState>& state() const {
    return state_.shared();
  }

 private:
  detail::StatePointer state_;
};

struct InjectOptions {
  /// The layers that have tensors in it are adapted, with their ranks (and
  /// DoRA's magnitudes, lora_B's bias) by its keys and shapes, whatever
  /// target_modules says; "<layer>.alpha" entries are taken as its alphas.
  /// Values are not copied: set_peft_model_state_dict does that. Keys may carry
  /// "base_model.model.". The adapter's config says what was found.
  const StateDict* state_dict = nullptr;
  /// True: the adapter's own tensors have no memory (meta device) until
  /// set_peft_model_state_dict gives them values; the tensor objects stay the
  /// same. Forward before that: Error (state). Not beside init_data.
  bool low_cpu_mem_usage = false;
  /// What a pass over data found for init_lora_weights = "corda", "eva" or
  /// "lora_ga": see peft/lora_init_data.h.
  const StateDict* init_data = nullptr;
  /// False: what is active stays so, and the new adapter waits for set_adapter.
  bool activate = true;
  /// The adapter's tensors on a bfloat16 or float16 weight are float32, as
  /// training needs and PEFT does: products with them are computed and summed
  /// in float32, and the result is rounded to what the layer gives without
  /// them. False: they take the weight's dtype. Copies of modules_to_save
  /// always do. Module::to(dtype) after injection casts them with the rest of
  /// the model; cast_adapter_dtype brings float32 back.
  bool autocast_adapter_dtype = true;
};

/// Puts an adapter on every module of `model` that `config` selects, in place,
/// and makes it the active one. The first injection freezes the model's own
/// parameters. Adapter weights take the device of the weight they stand on and
/// its dtype, or float32 on half precision; new submodules take its layer's
/// train/eval mode.
///
///   peft::LoraConfig config;
///   config.target_modules = {"query", "value"};
///   auto adapters = peft::inject_adapter_in_model(config, *model);
///
/// Throws Error naming every mistake; the model is then as it was.
PEFT_API Adapters inject_adapter_in_model(
    const AdapterConfig& config,
    torch::nn::Module& model,
    const std::string& adapter_name = "default",
    const InjectOptions& options = {});

/// What that call would adapt, and why not the rest. Changes nothing; mistakes
/// stand in the report's notes.
PEFT_API MatchReport
match_report(const AdapterConfig& config, const torch::nn::Module& model);

/// The handle again. Throws Error (state) when `model` has no adapters.
PEFT_API Adapters adapters_of(const torch::nn::Module& model);

/// The same operations by model, under PEFT's names.
PEFT_API void set_adapter(torch::nn::Module& model, const std::string& name);
PEFT_API void set_adapter(
    torch::nn::Module& model,
    const std::vector<std::string>& names);
PEFT_API void set_adapter(
    torch::nn::Module& model,
    std::initializer_list<std::string> names);
PEFT_API void enable_adapters(torch::nn::Module& model, bool enabled);
PEFT_API void delete_adapter(torch::nn::Module& model, const std::string& name);
PEFT_API void unload(torch::nn::Module& model);
PEFT_API void merge_adapter(
    torch::nn::Module& model,
    const std::vector<std::string>& adapter_names = {});
PEFT_API void unmerge_adapter(torch::nn::Module& model);
PEFT_API void merge_and_unload(
    torch::nn::Module& model,
    const std::vector<std::string>& adapter_names = {},
    bool in_place = false);
PEFT_API void set_requires_grad(
    torch::nn::Module& model,
    const std::vector<std::string>& names,
    bool requires_grad = true);
PEFT_API std::vector<LayerStatus> get_layer_status(
    const torch::nn::Module& model);
PEFT_API ModelStatus get_model_status(const torch::nn::Module& model);

}  // namespace peft
