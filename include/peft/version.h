// SPDX-License-Identifier: Apache-2.0
// The library's version. It stands here alone: CMake reads this file.
#pragma once

#define PEFT_VERSION_MAJOR 0
#define PEFT_VERSION_MINOR 1
#define PEFT_VERSION_PATCH 0

#define PEFT_DETAIL_TEXT_OF(number) #number
#define PEFT_DETAIL_VERSION(major, minor, patch) \
  PEFT_DETAIL_TEXT_OF(major)                     \
  "." PEFT_DETAIL_TEXT_OF(minor) "." PEFT_DETAIL_TEXT_OF(patch)

/// "0.1.0"
#define PEFT_VERSION   \
  PEFT_DETAIL_VERSION( \
      PEFT_VERSION_MAJOR, PEFT_VERSION_MINOR, PEFT_VERSION_PATCH)
