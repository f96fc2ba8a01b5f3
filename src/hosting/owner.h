// SPDX-License-Identifier: Apache-2.0
// What an adapted tensor keeps alive: the state of the model it belongs to.
// Hosting does not know what that is.
#pragma once

namespace peft::detail {

struct Owner {
  virtual ~Owner() = default;
};

}  // namespace peft::detail
