// SPDX-License-Identifier: Apache-2.0
// Gives every field of a config its value from a parsed file. Wrong types are
// collected, not thrown, so that one look at the message mends the file.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/mistakes.h"
#include "config/json_text.h"
#include "peft/adapter_config.h"

namespace peft::detail {

class FieldReader final : public FieldVisitor {
 public:
  /// Both must outlive the reader; `object` is a JSON object. `path` stands
  /// before the names of its fields in messages: "eva_config.".
  FieldReader(const Json& object, Mistakes& mistakes, std::string path = "")
      : object_(object), mistakes_(mistakes), path_(std::move(path)) {}

  /// A field that no config has is none that this version does not know.
  void ignore(const std::string& name) { read_.insert(name); }
  /// Adds to `kept` every field that was not asked for.
  void keep_unknown(UnknownFields& kept);
  /// Paths of all fields that were kept, those of nested configs too.
  const std::vector<std::string>& unknown() const { return unknown_; }

  void field(const char* name, bool& value) override;
  void field(const char* name, std::int64_t& value) override;
  void field(const char* name, double& value) override;
  void field(const char* name, std::optional<std::int64_t>& value) override;
  void field(const char* name, std::string& value) override;
  void field(const char* name, std::optional<std::string>& value) override;
  void field(const char* name, std::vector<std::string>& value) override;
  void field(const char* name, std::optional<std::vector<std::int64_t>>& value)
      override;
  void field(const char* name, OneOrMany<std::string>& value) override;
  void field(const char* name, OneOrMany<std::int64_t>& value) override;
  void field(const char* name, Patterns<std::int64_t>& value) override;
  void field(const char* name, Patterns<double>& value) override;
  void field(const char* name, Patterns<std::vector<bool>>& value) override;
  void field(const char* name, ModuleChoice& value) override;
  void field(const char* name, InitChoice& value) override;
  void field(const char* name, TokenChoice& value) override;
  void field(const char* name, JsonText& value) override;

 protected:
  void visit_nested(const char* name, bool is_given, const VisitFields& visit)
      override;

 private:
  const Json* find(const char* name);
  const Json* find_given(const char* name);
  void wrong(const std::string& name, const Json& found, const char* expected);
  template <class Value>
  bool read_one(const char* name, Value& value, const char* expected);
  template <class Value>
  void read_optional(
      const char* name,
      std::optional<Value>& value,
      const char* expected);
  template <class Value>
  bool read_list(
      const std::string& name,
      const Json& list,
      std::vector<Value>& into);
  template <class Value>
  void read_one_or_many(
      const char* name,
      OneOrMany<Value>& value,
      const char* expected);
  template <class Value>
  void read_patterns(const char* name, Patterns<Value>& value);
  template <class Value>
  void read_lists(
      const char* name,
      const Json& lists,
      const char* expected,
      Patterns<std::vector<Value>>& into);

  const Json& object_;
  Mistakes& mistakes_;
  const std::string path_;
  std::set<std::string> read_;
  std::vector<std::string> unknown_;
};

}  // namespace peft::detail
