// SPDX-License-Identifier: Apache-2.0
// What every adapter's configuration has in common: PEFT's field names and
// defaults, plain public fields, filled by assignment. One function per
// config, visit(), names each field once; reading, writing, and comparing
// adapter_config.json all go through it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "peft/config_values.h"
#include "peft/export.h"

namespace peft {

/// Sees each field of a config under its name in adapter_config.json.
/// Implemented by the reader and the writer; a config only lists its fields.
class PEFT_API FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;
  virtual void field(const char* name, bool& value) = 0;
  virtual void field(const char* name, std::int64_t& value) = 0;
  virtual void field(const char* name, double& value) = 0;
  virtual void field(const char* name, std::optional<std::int64_t>& value) = 0;
  virtual void field(const char* name, std::string& value) = 0;
  virtual void field(const char* name, std::optional<std::string>& value) = 0;
  virtual void field(const char* name, std::vector<std::string>& value) = 0;
  virtual void field(
      const char* name,
      std::optional<std::vector<std::int64_t>>& value) = 0;
  virtual void field(const char* name, OneOrMany<std::string>& value) = 0;
  virtual void field(const char* name, OneOrMany<std::int64_t>& value) = 0;
  virtual void field(const char* name, Patterns<std::int64_t>& value) = 0;
  virtual void field(const char* name, Patterns<double>& value) = 0;
  virtual void field(const char* name, Patterns<std::vector<bool>>& value) = 0;
  virtual void field(const char* name, ModuleChoice& value) = 0;
  virtual void field(const char* name, InitChoice& value) = 0;
  virtual void field(const char* name, TokenChoice& value) = 0;
  virtual void field(const char* name, JsonText& value) = 0;

  /// A config inside the config, null when there is none: a struct with a
  /// visit() and unknown_fields of its own.
  template <class Config>
  void nested(const char* name, std::optional<Config>& config) {
    visit_nested(
        name,
        config.has_value(),
        [&config](FieldVisitor& inner) -> UnknownFields& {
          if (!config) {
            config.emplace();
          }
          config->visit(inner);
          return config->unknown_fields;
        });
  }

 protected:
  /// Shows the fields of a nested config, made first if need be, to a visitor,
  /// and returns its unknown ones.
  using VisitFields = std::function<UnknownFields&(FieldVisitor& inner)>;
  virtual void
  visit_nested(const char* name, bool is_given, const VisitFields& visit) = 0;
};

/// What narrows or varies target_modules, and what is trained beside it, in
/// methods that have such fields.
struct TargetRules {
  std::vector<std::int64_t> layers_to_transform;  ///< empty: every layer
  std::vector<std::string> layers_pattern;
  Patterns<std::int64_t> rank_pattern;
  Patterns<double> alpha_pattern;
  std::vector<std::string> target_parameters;
  std::string bias = "none";  ///< "none", "all" or "lora_only"
  TokenChoice trainable_token_indices;
  bool ensure_weight_tying = false;
};

namespace detail {
class Mistakes;
}

/// The fields of PEFT's PeftConfig and of target selection. Base of every
/// method's config; not used by itself.
struct PEFT_API AdapterConfig {
  virtual ~AdapterConfig() = default;

  /// PEFT's name of the method: "LORA".
  virtual std::string peft_type() const = 0;
  virtual std::unique_ptr<AdapterConfig> clone() const = 0;
  /// Calls `visitor` once for each serialised field, peft_type excepted.
  virtual void visit(FieldVisitor& visitor);
  /// Adds one line to `mistakes` for each value that can never work, and for
  /// each that asks for something this library does not do yet. Checks that
  /// need the model come with injection.
  virtual void check(detail::Mistakes& mistakes) const;
  /// The fields of this method that matching looks at beside the choices
  /// below; nothing for methods without them.
  virtual TargetRules target_rules() const { return {}; }

  std::optional<std::string> task_type;
  JsonText auto_mapping;
  std::string peft_version = "0.21.2";  ///< whose files these are; "": old
  std::optional<std::string> base_model_name_or_path;
  std::optional<std::string> revision;
  bool inference_mode = false;  ///< inject with frozen adapter weights

  ModuleChoice target_modules;
  ModuleChoice exclude_modules;
  /// Trained and saved whole beside the adapter: {"classifier"}.
  std::vector<std::string> modules_to_save;

  UnknownFields unknown_fields;
};

/// Reads `directory`/adapter_config.json. Unknown fields are kept, with a
/// warning; nulls mean the default. Throws Error (file, config) naming every
/// field whose value has a wrong type.
PEFT_API std::unique_ptr<AdapterConfig> load_adapter_config(
    const std::filesystem::path& directory);

/// The same from the text of such a file; `origin` names it in messages.
PEFT_API std::unique_ptr<AdapterConfig> parse_adapter_config(
    const std::string& json,
    const std::string& origin = "adapter config");

/// The text of adapter_config.json as Python PEFT writes it: every field,
/// keys sorted, two spaces of indentation, no newline at the end.
PEFT_API std::string to_json(const AdapterConfig& config);

}  // namespace peft
