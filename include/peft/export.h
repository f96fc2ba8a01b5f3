// SPDX-License-Identifier: Apache-2.0
// PEFT_API marks what a shared libpeft exports; everything else stays hidden.
#pragma once

#if defined(PEFT_STATIC)
#define PEFT_API
#elif defined(_WIN32)
#if defined(PEFT_BUILDING)
#define PEFT_API __declspec(dllexport)
#else
#define PEFT_API __declspec(dllimport)
#endif
#else
#define PEFT_API __attribute__((visibility("default")))
#endif
