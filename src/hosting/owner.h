// SPDX-License-Identifier: Apache-2.0
// What an adapted tensor keeps alive: the state of the model it belongs to.
// Hosting does not know what that is.
#pragma once

#include <memory>
#include <vector>

#include "hosting/attachment.h"

namespace torch::nn {
class Module;
}

namespace peft::detail {

struct Owner : std::enable_shared_from_this<Owner> {
  virtual ~Owner() = default;
  /// What all adapters, active or not, have on a weight.
  virtual std::vector<std::shared_ptr<const Attachment>> attachments_on(
      WeightId weight) const = 0;
  /// The tensor that stood for a weight is in no layer any more.
  virtual void stand_in_gone(WeightId /*weight*/) noexcept {}
  /// The modules that adapters live in, where the model itself has none that
  /// could hold them: TorchScript's.
  std::shared_ptr<torch::nn::Module> tree;
};

}  // namespace peft::detail
