// SPDX-License-Identifier: Apache-2.0
// The adapted tensors step aside while libtorch moves a model.
#include "peft/to.h"

#include "hosting/adapted_tensor.h"
#include "hosting/adapter_modules.h"
#include "hosting/module_host.h"
#include "model/model_state.h"

namespace peft {
namespace {

using namespace detail;

// Puts the very same tensors back when it goes out of scope.
class SteppedAside {
 public:
  explicit SteppedAside(const ModelState& state) {
    for (const Site& site : state.sites) {
      if (const at::Tensor tensor = site.place->get();
          as_adapted(tensor) && !is_set_anew(site)) {
        tensors_.emplace_back(&site, tensor);
        site.place->put(site.weight->base());
      }
    }
  }

  ~SteppedAside() {
    for (const auto& [site, tensor] : tensors_) {
      site->weight->announce_dtype(site->weight->base().scalar_type());
      site->place->put(tensor);
    }
  }

  SteppedAside(const SteppedAside&) = delete;
  SteppedAside& operator=(const SteppedAside&) = delete;

 private:
  std::vector<std::pair<const Site*, at::Tensor>> tensors_;
  const MovesRecurrentLayers may_move_;
};

template <class... Where>
void move_model(torch::nn::Module& model, Where... where) {
  const ModuleHost host(model);
  const auto any = host.find_owner([](const Owner&) { return true; });
  if (!any) {
    model.to(where...);
    return;
  }
  const auto state = get_state(host);
  const auto turn = state->lock();
  const SteppedAside aside(*state);
  model.to(where...);
}

}  // namespace

void to(
    torch::nn::Module& model,
    torch::Device device,
    torch::Dtype dtype,
    bool non_blocking) {
  move_model(model, device, dtype, non_blocking);
}

void to(torch::nn::Module& model, torch::Dtype dtype, bool non_blocking) {
  move_model(model, dtype, non_blocking);
}

void to(torch::nn::Module& model, torch::Device device, bool non_blocking) {
  move_model(model, device, non_blocking);
}

}  // namespace peft
