// SPDX-License-Identifier: Apache-2.0
// What a call threw, when its kind does not matter.
#pragma once

#include <stdexcept>
#include <string>

#include <gtest/gtest.h>

namespace peft_test {

/// "" and a failed test when `call` throws nothing.
template <class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace peft_test
