// SPDX-License-Identifier: Apache-2.0
// What every adapter's configuration has in common: PEFT's field names and
// defaults, plain public fields, filled by assignment. One function per
// config, visit(), names each field once; reading, writing, and comparing
// adapter_config.json all go through it.
#pragma once

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "peft/export.h"

namespace peft {

/// A choice of modules: nothing, a list of names, or one pattern.
///
///   config.target_modules = {"query", "value"};         // path suffixes
///   config.target_modules = "all-linear";               // every linear layer
///   config.target_modules = R"(.*\.(q|v)_proj)";        // regex, whole path
///
/// A list entry selects the module of that path and those whose path ends
/// with "." + entry. A string is a Python regular expression that must match
/// the whole path (PCRE2 runs it).
class PEFT_API ModuleChoice {
 public:
  ModuleChoice() = default;
  ModuleChoice(const char* pattern) : pattern_(pattern) {}
  ModuleChoice(std::string pattern) : pattern_(std::move(pattern)) {}
  ModuleChoice(std::initializer_list<std::string> names) : names_(names) {}
  ModuleChoice(std::vector<std::string> names) : names_(std::move(names)) {}

  bool is_none() const { return !pattern_ && !names_; }
  bool is_pattern() const { return pattern_.has_value(); }
  bool is_list() const { return names_.has_value(); }
  /// The regex or "all-linear"; only when is_pattern().
  const std::string& pattern() const { return pattern_.value(); }
  /// The names in the order given; only when is_list().
  const std::vector<std::string>& names() const { return names_.value(); }

  friend bool operator==(const ModuleChoice&, const ModuleChoice&) = default;

 private:
  std::optional<std::string> pattern_;
  std::optional<std::vector<std::string>> names_;
};

/// How new adapter weights start: true (the method's default), false (not the
/// identity; for debugging), or a named scheme such as "gaussian".
class PEFT_API InitChoice {
 public:
  InitChoice(bool on = true) : on_(on) {}
  InitChoice(const char* scheme) : scheme_(scheme) {}
  InitChoice(std::string scheme) : scheme_(std::move(scheme)) {}

  /// True for a bare `true`; false for `false` and for named schemes.
  bool is_default() const { return on_ && scheme_.empty(); }
  bool is_named() const { return !scheme_.empty(); }
  const std::string& scheme() const { return scheme_; }

  friend bool operator==(const InitChoice&, const InitChoice&) = default;

 private:
  bool on_ = true;
  std::string scheme_;
};

/// A value, a list of values, or nothing; written to files as it was given.
///   config.layers_to_transform = {0, 1};   config.layers_pattern = "layers";
template <class Value>
class OneOrMany {
 public:
  OneOrMany() = default;
  template <std::convertible_to<Value> One>
  OneOrMany(One one) : values_{Value(std::move(one))}, is_one_(true) {}
  OneOrMany(std::initializer_list<Value> values)
      : values_(values), is_none_(false) {}
  OneOrMany(std::vector<Value> values)
      : values_(std::move(values)), is_none_(false) {}

  bool is_none() const { return is_none_ && !is_one_; }
  bool is_one() const { return is_one_; }
  bool empty() const { return values_.empty(); }
  std::size_t size() const { return values_.size(); }
  auto begin() const { return values_.begin(); }
  auto end() const { return values_.end(); }
  const std::vector<Value>& values() const { return values_; }

  friend bool operator==(const OneOrMany&, const OneOrMany&) = default;

 private:
  std::vector<Value> values_;
  bool is_one_ = false;
  bool is_none_ = true;
};

/// Values for modules whose path matches a pattern, tried in this order:
///   config.rank_pattern = {{"q", 4}, {"layers.0.k", 8}};
/// A key is a Python regular expression for a path suffix at a dot boundary.
template <class Value>
using Patterns = std::vector<std::pair<std::string, Value>>;

/// A field of a config file that is kept as it came, as JSON text.
struct JsonText {
  std::string text = "null";
  bool is_null() const { return text == "null"; }
  friend bool operator==(const JsonText&, const JsonText&) = default;
};

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
  virtual void field(const char* name, OneOrMany<std::string>& value) = 0;
  virtual void field(const char* name, OneOrMany<std::int64_t>& value) = 0;
  virtual void field(const char* name, Patterns<std::int64_t>& value) = 0;
  virtual void field(const char* name, Patterns<double>& value) = 0;
  virtual void field(const char* name, Patterns<std::vector<bool>>& value) = 0;
  virtual void field(const char* name, ModuleChoice& value) = 0;
  virtual void field(const char* name, InitChoice& value) = 0;
  virtual void field(const char* name, JsonText& value) = 0;
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
  std::string peft_version = "0.21.2";  ///< the PEFT whose files these are
  std::optional<std::string> base_model_name_or_path;
  std::optional<std::string> revision;
  bool inference_mode = false;  ///< inject with frozen adapter weights

  ModuleChoice target_modules;
  ModuleChoice exclude_modules;
  /// Trained and saved whole beside the adapter: {"classifier"}.
  std::vector<std::string> modules_to_save;

  /// Fields of a config file that this version does not know, kept and
  /// written back: name and JSON text.
  std::vector<std::pair<std::string, JsonText>> unknown_fields;
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
