// SPDX-License-Identifier: Apache-2.0
#include "hosting/choice.h"

namespace peft::detail {

std::shared_ptr<const Activation> always(
    std::shared_ptr<const Attachment> attachment) {
  auto adapter = std::make_shared<AttachedAdapter>(AdapterId{0});
  adapter->add(WeightId{0}, std::move(attachment));
  return std::make_shared<Activation>(Choice{.adapters = {std::move(adapter)}});
}

}  // namespace peft::detail
