// SPDX-License-Identifier: Apache-2.0
// The fields that every method's config has.
#include "peft/adapter_config.h"

#include <algorithm>

#include "base/mistakes.h"
#include "base/text.h"
#include "config/json_text.h"

namespace peft {

void AdapterConfig::visit(FieldVisitor& visitor) {
  visitor.field("task_type", task_type);
  visitor.field("auto_mapping", auto_mapping);
  visitor.field("peft_version", peft_version);
  visitor.field("base_model_name_or_path", base_model_name_or_path);
  visitor.field("revision", revision);
  visitor.field("inference_mode", inference_mode);
  visitor.field("target_modules", target_modules);
  visitor.field("exclude_modules", exclude_modules);
  visitor.field("modules_to_save", modules_to_save);
}

void AdapterConfig::check(detail::Mistakes& mistakes) const {
  static const std::vector<std::string> task_types = {
      "SEQ_CLS",
      "SEQ_2_SEQ_LM",
      "CAUSAL_LM",
      "TOKEN_CLS",
      "QUESTION_ANS",
      "FEATURE_EXTRACTION"};
  if (task_type &&
      std::find(task_types.begin(), task_types.end(), *task_type) ==
          task_types.end()) {
    mistakes.add(
        ErrorKind::config,
        detail::concat(
            "task_type is '",
            *task_type,
            "', which PEFT does not know",
            detail::did_you_mean(*task_type, task_types),
            "; leave it unset or use one of ",
            detail::list_names(task_types, task_types.size())));
  }
  if (detail::is_broken(auto_mapping)) {
    mistakes.add(ErrorKind::config, "auto_mapping is not JSON text");
  }
  detail::check_unknown_fields("", unknown_fields, mistakes);
}

}  // namespace peft
