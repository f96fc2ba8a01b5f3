// SPDX-License-Identifier: Apache-2.0
// IA3's configuration: a learned vector scales what a module puts out, or what
// it takes in where it is feed-forward.
// https://arxiv.org/abs/2205.05638
#pragma once

#include "peft/adapter_config.h"

namespace peft {

/// PEFT's IA3Config, field for field.
struct PEFT_API IA3Config : AdapterConfig {
  std::string peft_type() const override { return "IA3"; }
  std::unique_ptr<AdapterConfig> clone() const override;
  void visit(FieldVisitor& visitor) override;
  void check(detail::Mistakes& mistakes) const override;

  /// The modules whose inputs are scaled, of those in target_modules. Must be
  /// given: = std::vector<std::string>() for none.
  ModuleChoice feedforward_modules;
  /// True for weights stored [in, out]; layers of this library know their own.
  bool fan_in_fan_out = false;
  bool init_ia3_weights = true;  ///< start at one; false: random, not identity
};

}  // namespace peft
