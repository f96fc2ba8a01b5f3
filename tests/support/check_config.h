// SPDX-License-Identifier: Apache-2.0
// Configs from a few JSON fields, and what check() and reading say of them.
#pragma once

#include <string>

#include "base/mistakes.h"
#include "peft/lora_config.h"
#include "support/error_of.h"

namespace peft_test {

/// Throws what config.check() finds.
inline void check(const peft::AdapterConfig& config) {
  peft::detail::Mistakes mistakes(peft::ErrorKind::config, "check");
  config.check(mistakes);
  mistakes.raise_if_any();
}

/// The text of that error, which is of `kind`.
inline std::string mistake(
    peft::ErrorKind kind,
    const peft::AdapterConfig& config) {
  return error_of(kind, [&] { check(config); });
}

/// The config of {"peft_type": "LORA", <fields>}.
inline peft::LoraConfig lora(const std::string& fields) {
  const auto config = peft::parse_adapter_config(
      R"({"peft_type": "LORA")" + (fields.empty() ? "" : ", " + fields) + "}",
      "a.json");
  return dynamic_cast<const peft::LoraConfig&>(*config);
}

/// The text of the error that reading such a config throws.
inline std::string field_mistake(const std::string& fields) {
  return error_of(peft::ErrorKind::config, [&] { lora(fields); });
}

}  // namespace peft_test
