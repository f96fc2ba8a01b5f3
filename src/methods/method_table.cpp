// SPDX-License-Identifier: Apache-2.0
#include "methods/method_table.h"

#include "base/text.h"
#include "methods/lora.h"

namespace peft::detail {
namespace {

const MethodEntry entries[] = {
    {"LORA", make_lora, fit_lora, settle_lora},
};

}  // namespace

const MethodEntry& method_entry(const AdapterConfig& config) {
  for (const auto& entry : entries) {
    if (entry.peft_type == config.peft_type()) {
      return entry;
    }
  }
  throw Error(
      ErrorKind::unsupported,
      concat(
          "method '",
          config.peft_type(),
          "' is not built yet; this library has LORA"));
}

}  // namespace peft::detail
