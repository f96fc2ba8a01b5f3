// SPDX-License-Identifier: Apache-2.0
// Watches what a layer's weight is multiplied with. Modules of libtorch have no
// hooks; the tensor that stands for a weight sees all that its operator does.
#pragma once

#include <functional>
#include <memory>

#include "hosting/host.h"

namespace peft::detail {

/// While it lives, `see` gets each input of the weight at `hosted`, detached.
/// The layer computes what the plain weight gives, without its adapters.
class InputObserver {
 public:
  using See = std::function<void(const at::Tensor& x)>;

  InputObserver(const HostedTensor& hosted, See see);
  ~InputObserver();
  InputObserver(const InputObserver&) = delete;
  InputObserver& operator=(const InputObserver&) = delete;

 private:
  std::shared_ptr<TensorPlace> place_;
  at::Tensor before_;
};

}  // namespace peft::detail
