// SPDX-License-Identifier: Apache-2.0
// The message of the peft::Error that a call throws, checked for its kind.
#pragma once

#include <string>

#include <gtest/gtest.h>

#include "peft/error.h"

namespace peft_test {

/// "" and a failed test when `call` throws nothing or another kind.
template <class Call>
std::string error_of(peft::ErrorKind kind, Call call) {
  try {
    call();
  } catch (const peft::Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no peft::Error was thrown";
  return "";
}

}  // namespace peft_test
