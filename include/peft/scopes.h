// SPDX-License-Identifier: Apache-2.0
// What one thread runs in a model, for as long as a scope lives:
//
//   const peft::UseAdapter scope(adapters, "customer-7");
//   auto logits = model->forward(ids);
//
// Threads that share one model each see their own choice, and each scope keeps
// what it names as it is: another thread may switch, swap, merge or delete
// adapters meanwhile. Scopes nest, the innermost for a model counts, and they
// end in the thread that began them, after an exception too (one that is ended
// elsewhere counts no more in its own thread). What a forward
// hands to other threads (torch::jit::fork) runs the model's own choice there.
//
// A forward without a scope runs the model's own choice, asked for anew by
// every layer. Where another thread may switch meanwhile, pin it: PinAdapters.
// peft::ExportedProgram does that by itself.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "peft/adapters.h"
#include "peft/batch_order.h"
#include "peft/export.h"

namespace peft {

namespace detail {
class ThreadChoice;
}

/// These adapters run, also where the model's own are disabled or merged.
/// Throws Error (state) as set_adapter does.
class PEFT_API UseAdapter {
 public:
  [[nodiscard]] UseAdapter(
      const Adapters& adapters,
      const std::string& adapter_name);
  [[nodiscard]] UseAdapter(
      const Adapters& adapters,
      const std::vector<std::string>& adapter_names);
  [[nodiscard]] UseAdapter(
      const Adapters& adapters,
      std::initializer_list<std::string> adapter_names);
  ~UseAdapter();
  UseAdapter(const UseAdapter&) = delete;
  UseAdapter& operator=(const UseAdapter&) = delete;

 private:
  std::unique_ptr<detail::ThreadChoice> choice_;
};

/// The base model runs, also where adapters are merged.
class PEFT_API DisableAdapters {
 public:
  [[nodiscard]] explicit DisableAdapters(const Adapters& adapters);
  ~DisableAdapters();
  DisableAdapters(const DisableAdapters&) = delete;
  DisableAdapters& operator=(const DisableAdapters&) = delete;

 private:
  std::unique_ptr<detail::ThreadChoice> choice_;
};

/// What runs now goes on running, whatever others change.
class PEFT_API PinAdapters {
 public:
  [[nodiscard]] explicit PinAdapters(const Adapters& adapters);
  ~PinAdapters();
  PinAdapters(const PinAdapters&) = delete;
  PinAdapters& operator=(const PinAdapters&) = delete;

 private:
  std::unique_ptr<detail::ThreadChoice> choice_;
};

/// Every adapter acts with `factor` times its scaling; what runs now is pinned.
/// Scopes inside multiply. Throws Error (state) where adapters are merged,
/// which no factor reaches, and Error (config) unless it is finite.
class PEFT_API ScaleAdapters {
 public:
  [[nodiscard]] ScaleAdapters(const Adapters& adapters, double factor);
  ~ScaleAdapters();
  ScaleAdapters(const ScaleAdapters&) = delete;
  ScaleAdapters& operator=(const ScaleAdapters&) = delete;

 private:
  std::unique_ptr<detail::ThreadChoice> choice_;
};

/// The same under PEFT's name: `const auto scope = rescale_adapter_scale(...);`
[[nodiscard]] inline ScaleAdapters rescale_adapter_scale(
    const Adapters& adapters,
    double multiplier) {
  return ScaleAdapters(adapters, multiplier);
}

/// Inputs are not cast to the dtype of adapters' factors in this thread: layers
/// whose input and factors differ throw what libtorch throws for them. For
/// models that arrange for dtypes themselves.
class PEFT_API DisableInputDtypeCasting {
 public:
  [[nodiscard]] DisableInputDtypeCasting();
  ~DisableInputDtypeCasting();
  DisableInputDtypeCasting(const DisableInputDtypeCasting&) = delete;
  DisableInputDtypeCasting& operator=(const DisableInputDtypeCasting&) = delete;

 private:
  bool before_;
};

/// In a batch each row names its adapter, "__base__" for none:
///
///   const peft::BatchAdapters scope(adapters, {"a", "__base__", "b"});
///   auto logits = model->forward(ids);    // three rows
///
/// Adapters may differ in method, rank and layers. Linear layers, embeddings,
/// convolutions and attention take part, in training too: gradients and results
/// are those of each adapter's own rows run by themselves (a layer that looks
/// at the whole batch, as BatchNorm does in training, sees them all).
///
/// Throws Error (state) for unknown names and in a merged model. A layer whose
/// input does not hold the batch throws Error (shape) in forward, one whose
/// weight is read by another operator (recurrent layers) Error (unsupported).
class PEFT_API BatchAdapters {
 public:
  [[nodiscard]] BatchAdapters(
      const Adapters& adapters,
      const std::vector<std::string>& adapter_of_row,
      BatchOrder order = BatchOrder::batch_first);
  ~BatchAdapters();
  BatchAdapters(const BatchAdapters&) = delete;
  BatchAdapters& operator=(const BatchAdapters&) = delete;

 private:
  std::unique_ptr<detail::ThreadChoice> choice_;
};

/// A weight whose adapter cannot run in a mixed batch.
struct PEFT_API BatchObstacle {
  std::string adapter;
  std::string weight;  ///< "reader.weight_ih_l0"
  std::string reason;
  /// It may run all the same, by what the model's forward does with it.
  bool depends_on_forward = false;
};

/// A dry run of BatchAdapters: of these adapters, or all of the model's, every
/// weight that would be an error in forward, as far as layers and adapters
/// tell. What inputs look like, and whether adapters are merged then, they do
/// not. Empty when nothing is in the way. Throws Error (state) for unknown
/// names.
PEFT_API std::vector<BatchObstacle> batch_obstacles(
    const Adapters& adapters,
    const std::vector<std::string>& adapter_names = {});

}  // namespace peft
